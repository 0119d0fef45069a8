#include "llmft/model/model_folder.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>

#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/parallel.hpp"
#include "llmft/base/progress.hpp"
#include "llmft/base/text.hpp"
#include "llmft/model/llama_config.hpp"
#include "llmft/model/safetensors.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

std::vector<int64_t> public_shape(const PackedTensor& packed, const Member& member) {
  bool norm =
      packed.role == Role::attn_norm || packed.role == Role::mlp_norm || packed.role == Role::final_norm;
  if (norm) return {packed.cols};
  return {member.rows, packed.cols};
}

// What threads share out: some rows of a public tensor on their way to a flat array, `stride` elements apart.
struct RowsToRead {
  const std::string* name;
  std::vector<int64_t> shape;
  int64_t first, count, cols;
  std::byte* to;
  int64_t stride;
};

// A model's tensors, read by several threads into host memory that the device copies from.
class BlockReader {
 public:
  BlockReader(const fs::path& folder, Device& device, int threads)
      : folder_(folder), device_(device), threads_(threads) {}

  // A block's frozen flat array in the compute dtype, adapter columns zero. Valid until the next but one.
  std::span<const std::byte> frozen(const Block& block, DType dtype) {
    std::span<std::byte> flat = next(static_cast<size_t>(block.frozen_numel) * size_of(dtype));
    std::vector<RowsToRead> work;
    int64_t end = 0;
    for (const PackedTensor& packed : block.tensors) {
      int64_t stored = packed.stored_rows() * packed.stored_cols();
      clear(flat, end, packed.offset, dtype);
      if (packed.extension != 0) clear(flat, packed.offset, packed.offset + stored, dtype);
      end = packed.offset + stored;
      for (const Member& member : packed.members)
        add(work, member.hf_name, public_shape(packed, member), member.rows, packed.cols, dtype,
            flat.data() +
                static_cast<size_t>(packed.offset + member.row * packed.stored_cols()) * size_of(dtype),
            packed.stored_cols());
    }
    clear(flat, end, block.frozen_numel, dtype);
    read(work, dtype);
    return flat;
  }

  // A block's trainable flat array; of the weights among them, those of the model.
  std::span<float> masters(const Block& block) {
    std::span<std::byte> bytes = next(static_cast<size_t>(block.trainable_numel) * sizeof(float));
    std::span<float> flat(reinterpret_cast<float*>(bytes.data()), static_cast<size_t>(block.trainable_numel));
    std::vector<RowsToRead> work;
    int64_t end = 0;
    for (const Trainable& t : block.trainables) {
      if (t.kind != TrainableKind::weight) continue;
      clear(bytes, end, t.offset, DType::f32);
      end = t.offset + t.numel();
      const PackedTensor& packed = block.tensors[static_cast<size_t>(t.tensor)];
      add(work, t.name, public_shape(packed, packed.members[static_cast<size_t>(t.member)]), t.rows, t.cols,
          DType::f32, bytes.data() + static_cast<size_t>(t.offset) * sizeof(float), t.cols);
    }
    clear(bytes, end, block.trainable_numel, DType::f32);
    read(work, DType::f32);
    return flat;
  }

 private:
  // The buffer that the device has read longest ago.
  std::span<std::byte> next(size_t bytes) {
    Stage& stage = stages_[turn_];
    turn_ = (turn_ + 1) % stages_.size();
    if (stages_[turn_].read) stages_[turn_].read->record();  // its copy was asked for before this call
    if (!stage.read) stage.read = device_.make_mark();
    stage.read->wait();
    if (stage.buffer.bytes() < bytes) stage.buffer = HostBuffer(device_, bytes);
    return {static_cast<std::byte*>(stage.buffer.data()), bytes};
  }
  static void clear(std::span<std::byte> flat, int64_t begin, int64_t end, DType dtype) {
    auto part = flat.subspan(static_cast<size_t>(begin) * size_of(dtype),
                             static_cast<size_t>(end - begin) * size_of(dtype));
    std::fill(part.begin(), part.end(), std::byte{0});
  }
  static void add(std::vector<RowsToRead>& work, const std::string& name, const std::vector<int64_t>& shape,
                  int64_t rows, int64_t cols, DType dtype, std::byte* to, int64_t stride) {
    constexpr int64_t kElements = int64_t{1} << 20;  // a thread's piece
    int64_t each = std::max<int64_t>(1, kElements / cols);
    for (int64_t first = 0; first < rows; first += each)
      work.push_back({&name, shape, first, std::min(each, rows - first), cols,
                      to + static_cast<size_t>(first * stride) * size_of(dtype), stride});
  }
  void read(const std::vector<RowsToRead>& work, DType dtype) const {
    parallel_for(static_cast<int64_t>(work.size()), threads_, [&](int64_t i) {
      const RowsToRead& w = work[static_cast<size_t>(i)];
      auto row_bytes = static_cast<size_t>(w.cols) * size_of(dtype);
      if (w.stride == w.cols) {
        folder_.read_as(*w.name, w.shape, dtype, w.first * w.cols, w.count * w.cols, w.to);
        return;
      }
      std::vector<std::byte> rows(row_bytes * static_cast<size_t>(w.count));
      folder_.read_as(*w.name, w.shape, dtype, w.first * w.cols, w.count * w.cols, rows.data());
      for (size_t r = 0; r < static_cast<size_t>(w.count); ++r)
        std::memcpy(w.to + r * static_cast<size_t>(w.stride) * size_of(dtype), rows.data() + r * row_bytes,
                    row_bytes);
    });
  }

  struct Stage {
    HostBuffer buffer;
    std::unique_ptr<Mark> read;
  };
  TensorFolder folder_;
  Device& device_;
  int threads_;
  std::array<Stage, 2> stages_;
  size_t turn_ = 0;
};

void start_adapter(const Trainable& t, uint64_t seed, std::span<float> values) {
  if (t.kind == TrainableKind::lora_b) return;  // zero
  CounterRng rng(seed, hash64(t.name));
  double bound = 1 / std::sqrt(static_cast<double>(t.cols));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((2 * rng.uniform(i) - 1) * bound);
}

std::span<float> slice(std::span<float> flat, const Trainable& t) {
  return flat.subspan(static_cast<size_t>(t.offset), static_cast<size_t>(t.numel()));
}

nlohmann::json parse_json(const fs::path& path) {
  try {
    return nlohmann::json::parse(read_file(path));
  } catch (const nlohmann::json::exception& e) {
    user_error("{}: not valid JSON ({})", path.string(), e.what());
  }
}

}  // namespace

void load_model(const fs::path& folder, const LlamaTensors& tensors, const Recipe& recipe, uint64_t seed,
                ParamStore& store) {
  constexpr int kMostThreads = 16;  // more only wait for memory
  BlockReader reader(folder, store.device(), std::min(usable_cores(), kMostThreads));
  Progress progress("load model", static_cast<uint64_t>(tensors.block_count()));
  for (int b = 0; b < tensors.block_count(); ++b) {
    const Block& block = tensors.block(b);
    if (block.frozen_numel > 0) store.set_frozen(b, reader.frozen(block, recipe.compute));
    progress.update(static_cast<uint64_t>(b), block.name);
    if (block.trainable_numel == 0) continue;
    std::span<float> master = reader.masters(block);
    for (const Trainable& t : block.trainables)
      if (t.kind != TrainableKind::weight) start_adapter(t, seed, slice(master, t));
    store.set_master(b, master);
  }
  store.publish();
  store.device().synchronize();  // the host memory goes
}

AdapterSpec read_adapter_config(const fs::path& folder) {
  fs::path path = folder / "adapter_config.json";
  nlohmann::json j = parse_json(path);
  auto refuse = [&](const std::string& what) {
    user_error("{}: {}; only plain LoRA adapters can be used", path.string(), what);
  };
  if (!j.is_object()) user_error("{}: not a PEFT adapter config (a JSON object is needed)", path.string());
  if (j.value("peft_type", nlohmann::json()) != "LORA")
    refuse("peft_type is " + j.value("peft_type", nlohmann::json()).dump());
  if (j.contains("bias") && !j["bias"].is_null() && j["bias"] != "none")
    refuse("bias is " + j["bias"].dump());
  for (const char* key : {"use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "rank_pattern",
                          "alpha_pattern", "modules_to_save", "layers_to_transform", "layer_replication",
                          "target_parameters", "trainable_token_indices", "alora_invocation_tokens"}) {
    nlohmann::json value = j.value(key, nlohmann::json());
    if (!value.is_null() && value != false && !(value.is_structured() && value.empty()))
      refuse(fmt::format("{} is {}", key, value.dump()));
  }
  AdapterSpec spec;
  try {
    spec.rank = j.at("r").get<int64_t>();
    spec.alpha = j.at("lora_alpha").get<double>();
    spec.rslora = j.value("use_rslora", false);
    const auto& targets = j.at("target_modules");
    spec.targets =
        normalise_targets(targets.is_string() ? std::vector<std::string>{targets.get<std::string>()}
                                              : targets.get<std::vector<std::string>>());
  } catch (const nlohmann::json::exception& e) {
    user_error("{}: not a PEFT adapter config ({})", path.string(), e.what());
  }
  if (spec.rank <= 0) refuse("r is not positive");
  if (!(spec.alpha > 0)) refuse("lora_alpha is not positive");
  return spec;
}

void check_adapter_tensors(const TensorFolder& adapter, const LlamaTensors& tensors) {
  std::set<std::string> known;
  for (const Block& block : tensors.blocks())
    for (const Trainable& t : block.trainables) known.insert(t.name);
  for (const std::string& name : adapter.names())
    if (!known.contains(name))
      user_error(
          "{}: tensor '{}' belongs to none of the config's target_modules; only plain LoRA adapters of "
          "Llama's linear "
          "layers can be used",
          adapter.path().string(), name);
}

void load_adapter(const fs::path& folder, const LlamaTensors& tensors, ParamStore& store) {
  TensorFolder source(folder / "adapter_model.safetensors");
  check_adapter_tensors(source, tensors);
  for (int b = 0; b < tensors.block_count(); ++b) {
    const Block& block = tensors.block(b);
    if (block.trainable_numel == 0) continue;
    std::vector<float> master(static_cast<size_t>(block.trainable_numel));
    for (const Trainable& t : block.trainables) source.read_f32(t.name, {t.rows, t.cols}, slice(master, t));
    store.set_master(b, master);
  }
  store.publish();
}

void save_adapter(const fs::path& folder, const LlamaTensors& tensors, const std::string& base,
                  ParamStore& store, bool is_root) {
  std::vector<std::vector<float>> masters;
  masters.reserve(static_cast<size_t>(tensors.block_count()));
  for (int b = 0; b < tensors.block_count(); ++b) masters.push_back(store.read_master(b));
  if (!is_root) return;
  std::vector<OutTensor> out;
  for (int b = 0; b < tensors.block_count(); ++b)
    for (const Trainable& t : tensors.block(b).trainables)
      out.push_back(
          {t.name, SafetensorsType::f32, {t.rows, t.cols}, slice(masters[static_cast<size_t>(b)], t).data()});
  const AdapterSpec& spec = tensors.adapter();
  nlohmann::json config{{"peft_type", "LORA"},
                        {"task_type", "CAUSAL_LM"},
                        {"base_model_name_or_path", base},
                        {"r", spec.rank},
                        {"lora_dropout", 0.0},
                        {"use_rslora", spec.rslora},
                        {"use_dora", false},
                        {"target_modules", spec.targets},
                        {"bias", "none"},
                        {"fan_in_fan_out", false},
                        {"inference_mode", true},
                        {"init_lora_weights", true},
                        {"modules_to_save", nullptr},
                        {"rank_pattern", nlohmann::json::object()},
                        {"alpha_pattern", nlohmann::json::object()}};
  if (spec.alpha == std::floor(spec.alpha))
    config["lora_alpha"] = static_cast<int64_t>(spec.alpha);
  else
    config["lora_alpha"] = spec.alpha;
  make_writable_folder(folder);
  write_safetensors(folder / "adapter_model.safetensors", out, {{"format", "pt"}});
  write_file_atomic(folder / "adapter_config.json", config.dump(2) + "\n");
}

void copy_beside_weights(const fs::path& source, const fs::path& folder) {
  for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer.model",
                           "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"})
    if (fs::exists(source / name)) write_file_atomic(folder / name, read_file(source / name));
}

void save_model(const fs::path& folder, const fs::path& source, const LlamaTensors& tensors, DType dtype,
                ParamStore& store, bool is_root) {
  std::vector<std::vector<std::byte>> values;
  std::vector<OutTensor> out;
  for (int b = 0; b < tensors.block_count(); ++b) {
    std::vector<float> master = store.read_master(b);
    if (!is_root) continue;
    const Block& block = tensors.block(b);
    for (const Trainable& t : block.trainables) {
      auto& bytes = values.emplace_back(static_cast<size_t>(t.numel()) * size_of(dtype));
      visit_dtype(dtype, [&](auto tag) {
        using T = decltype(tag);
        convert(std::span<const float>(slice(master, t)),
                std::span(reinterpret_cast<T*>(bytes.data()), static_cast<size_t>(t.numel())));
      });
      const PackedTensor& packed = block.tensors[static_cast<size_t>(t.tensor)];
      out.push_back({t.name, safetensors_type(dtype),
                     public_shape(packed, packed.members[static_cast<size_t>(t.member)]), bytes.data()});
    }
  }
  if (!is_root) return;
  make_writable_folder(folder);
  std::string config = config_json_with_dtype(read_file(source / "config.json"), dtype);
  copy_beside_weights(source, folder);
  write_safetensors(folder / "model.safetensors", out, {{"format", "pt"}});
  write_file_atomic(folder / "config.json", config);
}

}  // namespace llmft
