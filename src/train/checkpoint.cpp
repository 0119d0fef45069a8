#include "llmft/train/checkpoint.hpp"

#include <algorithm>
#include <fstream>

#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"
#include "llmft/model/safetensors.hpp"
#include "run_settings.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

constexpr int kFormat = 1;

fs::path folder_of(const fs::path& run) {
  return run / "checkpoints";
}
std::string part_name(int rank, int ranks) {
  return fmt::format("state-{:05}-of-{:05}.safetensors", rank, ranks);
}

struct Arrays {
  const char* name;
  Tensor flat;
};

std::array<Arrays, 3> arrays_of(int block, ParamStore& store, const AdamW& optimizer) {
  return {{{"master", store.local_master(block)},
           {"m", optimizer.local_m(block)},
           {"v", optimizer.local_v(block)}}};
}

void write_part(const fs::path& path, ParamStore& store, const AdamW& optimizer) {
  std::vector<std::vector<float>> values;
  std::vector<OutTensor> tensors;
  for (int b = 0; b < store.tensors().block_count(); ++b) {
    ShardRange range = store.written_range(b);
    if (range.begin == range.end) continue;
    int64_t local_begin = store.local_range(b).begin;
    for (const Arrays& array : arrays_of(b, store, optimizer)) {
      auto& copy = values.emplace_back(static_cast<size_t>(range.end - range.begin));
      Tensor part = array.flat.col_range(range.begin - local_begin, range.end - range.begin);
      store.device().copy_to_host(copy.data(), part.data, part.bytes());
      tensors.push_back({fmt::format("{}/{}/{}", store.tensors().block(b).name, array.name, range.begin),
                         SafetensorsType::f32,
                         {range.end - range.begin},
                         copy.data()});
    }
  }
  write_safetensors(path, tensors, {{"format", "llmft-checkpoint"}});
}

nlohmann::json or_null(const std::optional<double>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}
std::optional<double> optional_number(const nlohmann::json& value) {
  return value.is_null() ? std::nullopt : std::optional(value.get<double>());
}

nlohmann::json to_json(const TrainState& s) {
  return {{"step", s.step},
          {"updates", s.update.updates},
          {"skipped", s.skipped},
          {"epoch", s.epoch},
          {"pack", s.pack},
          {"samples", s.samples},
          {"tokens", s.tokens},
          {"supervised_tokens", s.supervised_tokens},
          {"loss_scale", s.update.loss_scale},
          {"loss_scale_good_steps", s.update.good_steps},
          {"planned_steps", s.planned_steps},
          {"first_loss", s.first_loss},
          {"last_loss", s.last_loss},
          {"first_valid", or_null(s.first_valid)},
          {"last_valid", or_null(s.last_valid)},
          {"best_valid", or_null(s.best_valid)},
          {"bad_validations", s.bad_validations},
          {"seconds", s.seconds},
          {"layout", s.layout},
          {"settings", s.settings}};
}

TrainState from_json(const nlohmann::json& j) {
  TrainState s;
  j.at("step").get_to(s.step);
  j.at("updates").get_to(s.update.updates);
  j.at("skipped").get_to(s.skipped);
  j.at("epoch").get_to(s.epoch);
  j.at("pack").get_to(s.pack);
  j.at("samples").get_to(s.samples);
  j.at("tokens").get_to(s.tokens);
  j.at("supervised_tokens").get_to(s.supervised_tokens);
  j.at("loss_scale").get_to(s.update.loss_scale);
  j.at("loss_scale_good_steps").get_to(s.update.good_steps);
  j.at("planned_steps").get_to(s.planned_steps);
  j.at("first_loss").get_to(s.first_loss);
  j.at("last_loss").get_to(s.last_loss);
  s.first_valid = optional_number(j.at("first_valid"));
  s.last_valid = optional_number(j.at("last_valid"));
  s.best_valid = optional_number(j.at("best_valid"));
  j.at("bad_validations").get_to(s.bad_validations);
  j.at("seconds").get_to(s.seconds);
  j.at("layout").get_to(s.layout);
  j.at("settings").get_to(s.settings);
  return s;
}

struct Found {
  int64_t step;
  fs::path path;
};

// Newest first.
std::vector<Found> list_checkpoints(const fs::path& run) {
  std::vector<Found> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_of(run), error)) {
    std::string name = entry.path().filename().string();
    if (!name.starts_with("step-")) continue;
    if (std::optional<int64_t> step = parse_int(name.substr(5))) found.push_back({*step, entry.path()});
  }
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.step > b.step; });
  return found;
}

void remove_temporary_folders(const fs::path& run) {
  std::error_code error;
  std::vector<fs::path> left;
  for (const auto& entry : fs::directory_iterator(folder_of(run), error))
    if (entry.path().extension() == ".tmp") left.push_back(entry.path());
  for (const fs::path& path : left) fs::remove_all(path);
}

// Over all of state.json but itself.
std::string document_hash(const nlohmann::json& document) {
  nlohmann::json rest = document;
  rest.erase("hash");
  return hash_bytes(rest.dump());
}

// What is wrong with a checkpoint, or "" and its state.
std::string inspect(const fs::path& folder, nlohmann::json& state) {
  try {
    state = nlohmann::json::parse(read_file(folder / "state.json"));
    if (state.at("format") != kFormat)
      return fmt::format("format {} is not {}", state.at("format").dump(), kFormat);
    if (state.at("hash") != document_hash(state)) return "state.json is damaged";
    for (const auto& [name, hash] : state.at("files").items())
      if (hash_file(folder / name) != hash) return name + " is damaged";
    (void)from_json(state.at("state"));
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

void read_parts(const fs::path& folder, const nlohmann::json& files, ParamStore& store,
                const AdamW& optimizer) {
  for (const auto& [file_name, hash] : files.items()) {
    SafetensorsFile file(folder / file_name);
    for (int b = 0; b < store.tensors().block_count(); ++b) {
      ShardRange range = store.local_range(b);
      for (const Arrays& array : arrays_of(b, store, optimizer)) {
        std::string stem = fmt::format("{}/{}/", store.tensors().block(b).name, array.name);
        for (const std::string& name : file.names()) {
          if (!name.starts_with(stem)) continue;
          const SafetensorsEntry& entry = *file.find(name);
          int64_t begin = *parse_int(name.substr(stem.size()));
          int64_t end = begin + entry.shape.at(0);
          int64_t lo = std::max(begin, range.begin), hi = std::min(end, range.end);
          if (lo >= hi) continue;
          Tensor part = array.flat.col_range(lo - range.begin, hi - lo);
          store.device().copy_to_device(
              part.data, entry.bytes.data() + static_cast<size_t>(lo - begin) * sizeof(float), part.bytes());
        }
      }
    }
  }
}

}  // namespace

void save_checkpoint(const fs::path& run, const TrainState& state, ParamStore& store, AdamW& optimizer,
                     const Process& process, int64_t keep) {
  fs::path target = folder_of(run) / fmt::format("step-{:06}", state.step);
  fs::path temporary = target.string() + ".tmp";
  if (process.is_root()) {
    remove_temporary_folders(run);
    make_writable_folder(temporary);
  }
  process.barrier();
  std::string name = part_name(process.rank(), process.size());
  write_part(temporary / name, store, optimizer);
  std::vector<std::string> hashes = process.all_gather(hash_file(temporary / name));
  if (process.is_root()) {
    nlohmann::json files;
    for (int r = 0; r < process.size(); ++r)
      files[part_name(r, process.size())] = hashes[static_cast<size_t>(r)];
    nlohmann::json document{{"format", kFormat}, {"files", files}, {"state", to_json(state)}};
    document["hash"] = document_hash(document);
    write_file_atomic(temporary / "state.json", document.dump(1) + "\n");
    fs::remove_all(target);
    commit_file(temporary, target);
    int64_t kept = 0;
    for (const Found& found : list_checkpoints(run))
      if (found.step > state.step || ++kept > keep) fs::remove_all(found.path);
  }
  process.barrier();
}

std::optional<TrainState> load_checkpoint(const fs::path& run, const std::string& layout,
                                          const std::string& settings, ParamStore& store, AdamW& optimizer,
                                          const Process& process) {
  std::string chosen;
  if (process.is_root()) {
    for (const auto& [step, folder] : list_checkpoints(run)) {
      nlohmann::json state;
      std::string fault = inspect(folder, state);
      if (fault.empty()) {
        chosen = folder.string();
        break;
      }
      log::warn("{}: checkpoint not usable ({}); trying the one before", folder.string(), fault);
    }
  }
  chosen = process.broadcast(chosen);
  if (chosen.empty()) return std::nullopt;
  nlohmann::json document = nlohmann::json::parse(read_file(fs::path(chosen) / "state.json"));
  TrainState state = from_json(document.at("state"));
  if (state.layout != layout)
    user_error(
        "{}: is of another model or adapter (names or shapes of the trained tensors differ); give the "
        "options it was made with, "
        "or another --output",
        chosen);
  if (state.settings != settings)
    user_error("{}: cannot go on from it with other settings ({}); give the same ones, or another --output",
               chosen, settings_difference(state.settings, settings));
  read_parts(chosen, document.at("files"), store, optimizer);
  optimizer.write_state(state.update);
  store.publish();
  return state;
}

}  // namespace llmft
