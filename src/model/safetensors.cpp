// Reading of one file. Offsets and sizes come from the file and are never trusted: products and sums are
// checked for overflow, and ranges against the mapped size, before a span is made of them.
#include "llmft/model/safetensors.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"

namespace llmft {
namespace {

using Json = nlohmann::json;

struct TypeRow {
  SafetensorsType type;
  const char* name;
  size_t size;
};
constexpr std::array kTypes = {
    TypeRow{SafetensorsType::boolean, "BOOL", 1}, TypeRow{SafetensorsType::u8, "U8", 1},
    TypeRow{SafetensorsType::i8, "I8", 1},        TypeRow{SafetensorsType::u16, "U16", 2},
    TypeRow{SafetensorsType::i16, "I16", 2},      TypeRow{SafetensorsType::f16, "F16", 2},
    TypeRow{SafetensorsType::bf16, "BF16", 2},    TypeRow{SafetensorsType::u32, "U32", 4},
    TypeRow{SafetensorsType::i32, "I32", 4},      TypeRow{SafetensorsType::f32, "F32", 4},
    TypeRow{SafetensorsType::u64, "U64", 8},      TypeRow{SafetensorsType::i64, "I64", 8},
    TypeRow{SafetensorsType::f64, "F64", 8},
};
const TypeRow& row_of(SafetensorsType type) {
  return kTypes[static_cast<size_t>(type)];
}

// The limit of the reference implementation (MAX_HEADER_SIZE of safetensors/src/tensor.rs).
constexpr uint64_t kMaxHeader = 100'000'000;

// A name out of a file as an error shows it: quoted, control characters escaped, not endless.
std::string shown(const std::string& name) {
  return Json(name.size() <= 120 ? name : name.substr(0, 120))
      .dump(-1, ' ', true, Json::error_handler_t::replace);
}

// One value of the header's object as a table entry.
class EntryReader {
 public:
  EntryReader(const std::filesystem::path& path, const std::string& name, std::span<const std::byte> data)
      : path_(path), name_(name), data_(data) {}

  SafetensorsEntry read(const Json& value) const {
    if (!value.is_object()) fail("its description is not an object");
    SafetensorsEntry entry;
    entry.name = name_;
    entry.dtype = dtype(field(value, "dtype"));
    uint64_t bytes = size_of(entry.dtype);
    const Json& shape = field(value, "shape");
    if (!shape.is_array()) fail("its shape is not a list");
    for (const Json& extent : shape) {
      if (!extent.is_number_unsigned() || extent.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
        fail("its shape has an entry that is no size");
      entry.shape.push_back(extent.get<int64_t>());
      if (__builtin_mul_overflow(bytes, extent.get<uint64_t>(), &bytes))
        fail("its shape is impossibly large");
    }
    entry.bytes = range(field(value, "data_offsets"), bytes, entry);
    return entry;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    user_error("{}: tensor {} cannot be read ({}); the file is damaged: copy or download it again",
               path_.string(), shown(name_), why);
  }

  const Json& field(const Json& value, const char* key) const {
    auto at = value.find(key);
    if (at == value.end()) fail(fmt::format("it has no {}", key));
    return *at;
  }

  SafetensorsType dtype(const Json& value) const {
    if (!value.is_string()) fail("its dtype is not a text");
    const auto& text = value.get_ref<const std::string&>();
    for (const TypeRow& row : kTypes)
      if (text == row.name) return row.type;
    user_error(
        "{}: tensor {} has dtype {}, which is not supported (quantised weights are not); use the model in "
        "bf16, fp16 "
        "or fp32",
        path_.string(), shown(name_), shown(text));
  }

  std::span<const std::byte> range(const Json& value, uint64_t bytes, const SafetensorsEntry& entry) const {
    if (!value.is_array() || value.size() != 2 || !value[0].is_number_unsigned() ||
        !value[1].is_number_unsigned())
      fail("its data_offsets are not two sizes");
    auto begin = value[0].get<uint64_t>();
    auto end = value[1].get<uint64_t>();
    if (end < begin) fail(fmt::format("its data_offsets [{}, {}] run backwards", begin, end));
    if (end - begin != bytes)
      fail(fmt::format("its {} bytes of data are not the {} of {} {}", end - begin, bytes,
                       name_of(entry.dtype), shape_text(entry.shape)));
    if (end > data_.size())
      fail(fmt::format("its data ends at byte {} of {}: the file is cut short", end, data_.size()));
    return data_.subspan(begin, end - begin);
  }

  const std::filesystem::path& path_;
  const std::string& name_;
  std::span<const std::byte> data_;
};

}  // namespace

size_t size_of(SafetensorsType type) {
  return row_of(type).size;
}
const char* name_of(SafetensorsType type) {
  return row_of(type).name;
}

SafetensorsType safetensors_type(DType type) {
  switch (type) {
    case DType::f32:
      return SafetensorsType::f32;
    case DType::bf16:
      return SafetensorsType::bf16;
    case DType::f16:
      return SafetensorsType::f16;
    case DType::i32:
      return SafetensorsType::i32;
    case DType::f64:
      return SafetensorsType::f64;
  }
  internal_error("unknown dtype");
}

std::string shape_text(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

int64_t SafetensorsEntry::numel() const {
  return static_cast<int64_t>(bytes.size() / size_of(dtype));
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path), file_(path) {
  parse();
}

void SafetensorsFile::parse() {
  std::span<const std::byte> all = file_.bytes();
  auto damaged = [&](const std::string& why) {
    user_error("{}: not a whole safetensors file ({}); copy or download it again", path_.string(), why);
  };
  uint64_t header_size = 0;
  if (all.size() < sizeof header_size) damaged(fmt::format("it has {} bytes", all.size()));
  std::memcpy(&header_size, all.data(), sizeof header_size);
  if (header_size > kMaxHeader) damaged(fmt::format("its header would have {} bytes", header_size));
  if (header_size > all.size() - sizeof header_size)
    damaged(fmt::format("its header has {} bytes, the file {}", header_size, all.size()));
  std::span<const std::byte> data = all.subspan(sizeof header_size + header_size);
  const auto* text = reinterpret_cast<const char*>(all.data() + sizeof header_size);

  Json header = Json::parse(text, text + header_size, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) damaged("its header is not a JSON object");
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries_.emplace(name, EntryReader(path_, name, data).read(value));
      continue;
    }
    if (!value.is_object()) damaged("its __metadata__ is not an object");
    for (const auto& [key, entry] : value.items()) {
      if (!entry.is_string()) damaged("its __metadata__ has a value that is not a text");
      metadata_.emplace(key, entry.get<std::string>());
    }
  }

  std::vector<const SafetensorsEntry*> by_place;
  for (const auto& [name, entry] : entries_) by_place.push_back(&entry);
  std::sort(by_place.begin(), by_place.end(), [](const auto* a, const auto* b) {
    return std::pair(a->bytes.data(), a->bytes.size()) < std::pair(b->bytes.data(), b->bytes.size());
  });
  const std::byte* covered = data.data();
  for (const SafetensorsEntry* entry : by_place) {
    if (entry->bytes.data() != covered)
      damaged(fmt::format("the data of tensor {} {}", shown(entry->name),
                          entry->bytes.data() < covered ? "overlaps another's" : "comes after a gap"));
    covered += entry->bytes.size();
  }
  if (covered != data.data() + data.size())
    damaged(fmt::format("{} bytes at its end belong to no tensor", data.data() + data.size() - covered));
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  auto at = entries_.find(name);
  return at == entries_.end() ? nullptr : &at->second;
}

}  // namespace llmft
