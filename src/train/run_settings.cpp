#include "run_settings.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

constexpr size_t kPieces = 256;
constexpr size_t kPieceBytes = 4096;

std::map<std::string, std::string> parse(const std::string& settings) {
  std::map<std::string, std::string> values;
  for (const std::string& line : split(settings, '\n')) {
    size_t equals = line.find('=');
    if (equals != std::string::npos) values[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return values;
}

template <size_t N, class Enum>
const char* choice(const std::pair<const char*, Enum> (&names)[N], Enum value) {
  for (auto& [name, v] : names)
    if (v == value) return name;
  return "?";
}

}  // namespace

std::string model_fingerprint(const std::string& folder) {
  std::string text = hash_file(fs::path(folder) / "config.json");
  std::set<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") files.insert(entry.path());
  for (const fs::path& path : files) {
    MappedFile file(path);
    std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    text += fmt::format(" {}", bytes.size());
    size_t stride = std::max(kPieceBytes, bytes.size() / kPieces);
    uint64_t hash = 0;
    for (size_t at = 0; at < bytes.size(); at += stride) hash = hash64(bytes.substr(at, kPieceBytes), hash);
    text += fmt::format(":{:016x}", hash);
  }
  return hash_bytes(text);
}

std::string run_settings(const TrainOptions& o, const AdapterSpec& adapter, const std::string& model,
                         const std::string& data) {
  std::string text;
  auto line = [&](const char* key, const std::string& value) { text += fmt::format("{}={}\n", key, value); };
  line("model", model);
  line("data", data);
  line("precision", name_of(o.precision));
  if (adapter.rank > 0) line("adapter.scale", number(adapter.scale()));
  line("train.seed", std::to_string(o.seed));
  line("train.pack_tokens", std::to_string(o.pack_tokens));
  line("train.batch_packs", std::to_string(o.batch_packs));
  line("train.schedule", choice(kScheduleNames, o.schedule));
  line("train.lr", number(o.lr));
  line("train.min_lr_ratio", number(o.min_lr_ratio));
  line("train.warmup_steps", std::to_string(o.warmup_steps));
  line("train.warmup_ratio", number(o.warmup_ratio));
  line("train.clip", number(o.clip));
  line("train.weight_decay", number(o.adamw.weight_decay));
  line("train.beta1", number(o.adamw.beta1));
  line("train.beta2", number(o.adamw.beta2));
  line("train.eps", number(o.adamw.eps));
  if (o.precision == Precision::fp16)
    line("train.loss_scale_interval", std::to_string(o.loss_scale_interval));
  return text;
}

std::string settings_difference(const std::string& before, const std::string& now) {
  std::map<std::string, std::string> was = parse(before), is = parse(now);
  std::vector<std::string> lines;
  for (const auto& [key, value] : is) {
    auto old = was.find(key);
    if (old == was.end() || old->second != value)
      lines.push_back(
          fmt::format("{} was {}, is {}", key, old == was.end() ? "not set" : old->second, value));
  }
  for (const auto& [key, value] : was)
    if (!is.contains(key)) lines.push_back(fmt::format("{} was {}, is not set", key, value));
  return join(lines, "; ");
}

}  // namespace llmft
