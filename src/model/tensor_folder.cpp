// Folders of safetensors files, and the conversion of their elements. Elements are copied to aligned memory
// before they are read as numbers: the format does not promise alignment.
#include <algorithm>
#include <array>
#include <cstring>

#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"
#include "llmft/model/llama_config.hpp"
#include "llmft/model/safetensors.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

constexpr size_t kChunk = 4096;  // elements converted at a time

template <class From>
void chunk_to_floats(const std::byte* from, std::span<float> out) {
  std::array<From, kChunk> aligned;
  std::memcpy(aligned.data(), from, out.size() * sizeof(From));
  if constexpr (std::is_same_v<From, double>)
    std::transform(aligned.begin(), aligned.begin() + static_cast<std::ptrdiff_t>(out.size()), out.begin(),
                   [](double x) { return static_cast<float>(x); });
  else
    convert(std::span<const From>(aligned.data(), out.size()), out);
}

// Elements [first, first + out.size()), at most kChunk.
void to_floats(const SafetensorsEntry& entry, size_t first, std::span<float> out) {
  const std::byte* from = entry.bytes.data() + first * size_of(entry.dtype);
  switch (entry.dtype) {
    case SafetensorsType::f32:
      std::memcpy(out.data(), from, out.size_bytes());
      return;
    case SafetensorsType::bf16:
      return chunk_to_floats<Bf16>(from, out);
    case SafetensorsType::f16:
      return chunk_to_floats<F16>(from, out);
    case SafetensorsType::f64:
      return chunk_to_floats<double>(from, out);
    default:
      internal_error("not a float tensor");
  }
}

bool is_float(SafetensorsType type) {
  return type == SafetensorsType::f32 || type == SafetensorsType::bf16 || type == SafetensorsType::f16 ||
         type == SafetensorsType::f64;
}

template <class To>
void convert_floats(const SafetensorsEntry& entry, void* out) {
  auto* to = static_cast<To*>(out);
  auto n = entry.bytes.size() / size_of(entry.dtype);
  std::array<float, kChunk> floats;
  for (size_t i = 0; i < n; i += kChunk) {
    std::span<float> chunk(floats.data(), std::min(kChunk, n - i));
    to_floats(entry, i, chunk);
    convert(std::span<const float>(chunk), std::span<To>(to + i, chunk.size()));
  }
}

// False where the values do not fit i32.
bool convert_i64(const SafetensorsEntry& entry, int32_t* out) {
  auto n = entry.bytes.size() / sizeof(int64_t);
  for (size_t i = 0; i < n; ++i) {
    int64_t value = 0;
    std::memcpy(&value, entry.bytes.data() + i * sizeof value, sizeof value);
    if (value != static_cast<int32_t>(value)) return false;
    out[i] = static_cast<int32_t>(value);
  }
  return true;
}

// Of a file in the same folder.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name[0] != '.' && fs::path(name).filename() == name;
}

[[noreturn]] void no_weights(const fs::path& folder) {
  bool pickles = false;
  for (const auto& file : fs::directory_iterator(folder)) {
    std::string extension = file.path().extension();
    pickles = pickles || extension == ".bin" || extension == ".pth" || extension == ".pt";
  }
  if (pickles)
    user_error(
        "{}: has no model.safetensors and no model.safetensors.index.json (PyTorch's .bin and .pth files are "
        "not read); "
        "download the safetensors form of the model",
        folder.string());
  user_error(
      "{}: has no model.safetensors and no model.safetensors.index.json; name a Hugging Face model folder, "
      "e.g. from {}",
      folder.string(), download_command(folder));
}

}  // namespace

TensorFolder::TensorFolder(const fs::path& path) : path_(path) {
  std::error_code error;
  fs::file_status status = fs::status(path, error);
  if (!fs::exists(status))
    user_error("{}: not found ({}); check the path", path.string(), error ? error.message() : "no such file");
  if (!fs::is_directory(status) && path.extension() == ".json") {
    open_parts(path);
    return;
  }
  fs::path whole = fs::is_directory(status) ? path / "model.safetensors" : path;
  if (fs::exists(whole)) {
    files_.push_back(std::make_unique<SafetensorsFile>(whole));
    for (const auto& [name, entry] : files_[0]->entries()) places_.emplace(name, Place{0, &entry});
    return;
  }
  fs::path index = path / "model.safetensors.index.json";
  if (!fs::exists(index)) no_weights(path);
  open_parts(index);
}

void TensorFolder::open_parts(const fs::path& index) {
  auto json = nlohmann::json::parse(read_file(index), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    user_error("{}: not an index of tensors (no weight_map); download it again", index.string());
  std::map<std::string, size_t> parts;
  for (const auto& [name, value] : json["weight_map"].items()) {
    if (!value.is_string() || !is_plain_name(value.get<std::string>()))
      user_error("{}: tensor '{}' is not assigned to a file of this folder; download the index again",
                 index.string(), name);
    auto file = value.get<std::string>();
    auto [part, is_new] = parts.emplace(file, files_.size());
    if (is_new) {
      fs::path part_path = index.parent_path() / file;
      if (!fs::exists(part_path))
        user_error("{}: missing, though {} names it; run the download again until it is complete",
                   part_path.string(), index.filename().string());
      files_.push_back(std::make_unique<SafetensorsFile>(part_path));
    }
    const SafetensorsEntry* entry = files_[part->second]->find(name);
    if (entry == nullptr)
      user_error(
          "{}: has no tensor '{}', though {} says so; the folder mixes two downloads: download it again",
          files_[part->second]->path().string(), name, index.filename().string());
    places_.emplace(name, Place{part->second, entry});
  }
}

std::vector<std::string> TensorFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_) names.push_back(name);
  return names;
}

bool TensorFolder::has(const std::string& name) const {
  return places_.contains(name);
}

const TensorFolder::Place& TensorFolder::place(const std::string& name,
                                               const std::vector<int64_t>& expected_shape) const {
  auto at = places_.find(name);
  if (at == places_.end()) {
    std::string nearest = nearest_name(name, names());
    user_error(
        "{}: tensor '{}' is missing ({}); check that the weights belong to this model and configuration",
        path_.string(), name,
        nearest.empty() ? fmt::format("no name of its {} tensors is near", places_.size())
                        : fmt::format("the nearest name there is '{}'", nearest));
  }
  const SafetensorsEntry& entry = *at->second.entry;
  if (entry.shape != expected_shape)
    user_error(
        "{}: tensor '{}' has shape {}, but {} is needed; check that the weights belong to this model and "
        "configuration",
        files_[at->second.file]->path().string(), name, shape_text(entry.shape), shape_text(expected_shape));
  return at->second;
}

const SafetensorsEntry& TensorFolder::get(const std::string& name,
                                          const std::vector<int64_t>& expected_shape) const {
  return *place(name, expected_shape).entry;
}

void TensorFolder::read_f32(const std::string& name, const std::vector<int64_t>& expected_shape,
                            std::span<float> out) const {
  check(static_cast<int64_t>(out.size()) == get(name, expected_shape).numel(), "read_f32 into another size");
  read_as(name, expected_shape, DType::f32, out.data());
}

void TensorFolder::read_as(const std::string& name, const std::vector<int64_t>& expected_shape, DType type,
                           void* out) const {
  read_as(name, expected_shape, type, 0, get(name, expected_shape).numel(), out);
}

void TensorFolder::read_as(const std::string& name, const std::vector<int64_t>& expected_shape, DType type,
                           int64_t first, int64_t count, void* out) const {
  const Place& at = place(name, expected_shape);
  SafetensorsEntry part = *at.entry;
  check(first >= 0 && count >= 0 && first + count <= part.numel(), "elements outside the tensor");
  size_t width = size_of(part.dtype);
  part.bytes = part.bytes.subspan(static_cast<size_t>(first) * width, static_cast<size_t>(count) * width);
  auto refuse = [&](const char* why) {
    user_error(
        "{}: tensor '{}' has dtype {}, which cannot be read as {} ({}); use weights in bf16, fp16 or fp32",
        files_[at.file]->path().string(), name, name_of(part.dtype), name_of(type), why);
  };
  if (part.bytes.empty()) return;
  if (part.dtype == safetensors_type(type)) {
    files_[at.file]->read(part.bytes, out);
  } else if (type == DType::i32) {
    if (part.dtype != SafetensorsType::i64) refuse("no integers");
    if (!convert_i64(part, static_cast<int32_t*>(out))) refuse("a value is out of range");
  } else {
    if (!is_float(part.dtype)) refuse("no floating-point numbers");
    visit_dtype(type, [&](auto zero) { convert_floats<decltype(zero)>(part, out); });
  }
}

}  // namespace llmft
