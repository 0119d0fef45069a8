// safetensors files and Hugging Face folders of them. Format (huggingface/safetensors, README): u64
// little-endian N, N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__":
// {text: text}}, then the data, which the tensors cover without gap or overlap. Everything in the header is
// checked before any of it is used: whatever the bytes are, the result is a whole table or a UserError that
// names file and tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llmft/base/file.hpp"
#include "llmft/tensor/dtype.hpp"

namespace llmft {

enum class SafetensorsType : uint8_t { boolean, u8, i8, u16, i16, f16, bf16, u32, i32, f32, u64, i64, f64 };
size_t size_of(SafetensorsType type);
const char* name_of(SafetensorsType type);  // "F32"
SafetensorsType safetensors_type(DType type);

using TensorMetadata = std::map<std::string, std::string>;

struct SafetensorsEntry {
  std::string name;
  SafetensorsType dtype = SafetensorsType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // into the map; need not be aligned for dtype

  int64_t numel() const;
};

// One mapped file.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  std::vector<std::string> names() const;                       // sorted
  const SafetensorsEntry* find(const std::string& name) const;  // null when there is none
  const std::map<std::string, SafetensorsEntry>& entries() const { return entries_; }
  const TensorMetadata& metadata() const { return metadata_; }
  // See MappedFile::read.
  void read(std::span<const std::byte> part, void* out) const { file_.read(part, out); }

 private:
  void parse();

  std::filesystem::path path_;
  MappedFile file_;
  std::map<std::string, SafetensorsEntry> entries_;
  TensorMetadata metadata_;
};

// A folder with model.safetensors, or with model.safetensors.index.json and the parts it names; or one
// file: of tensors, or an index. Parts are mapped and checked when opened.
class TensorFolder {
 public:
  explicit TensorFolder(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  std::vector<std::string> names() const;  // sorted
  bool has(const std::string& name) const;
  // UserError when missing (with the nearest name) or of another shape (both shapes, the file).
  const SafetensorsEntry& get(const std::string& name, const std::vector<int64_t>& expected_shape) const;
  // Converted from bf16, f16, f32 or f64; any other type is a UserError. out has exactly the tensor's
  // elements.
  void read_f32(const std::string& name, const std::vector<int64_t>& expected_shape,
                std::span<float> out) const;
  // As `type`, rounded to nearest even; out has room for the tensor's elements. Integers only from i32 and
  // i64.
  void read_as(const std::string& name, const std::vector<int64_t>& expected_shape, DType type,
               void* out) const;
  // Elements [first, first + count) alone, for several threads that share a tensor.
  void read_as(const std::string& name, const std::vector<int64_t>& expected_shape, DType type, int64_t first,
               int64_t count, void* out) const;

 private:
  struct Place {
    size_t file;
    const SafetensorsEntry* entry;
  };
  void open_parts(const std::filesystem::path& index);
  const Place& place(const std::string& name, const std::vector<int64_t>& expected_shape) const;

  std::filesystem::path path_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Place> places_;
};

// "[128256, 2048]".
std::string shape_text(std::span<const int64_t> shape);

struct OutTensor {
  std::string name;
  SafetensorsType dtype = SafetensorsType::f32;
  std::vector<int64_t> shape;
  const void* data = nullptr;  // not used by SafetensorsWriter
};

// Writes a file whose tensors come one after another and need not be in memory together. Header and data in
// the order given, so equal input makes equal bytes; the header is padded to 8 bytes. The file has its name
// only after finish(); without it the temporary one is removed. UserError for a full disk.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::span<const OutTensor> tensors,
                    const TensorMetadata& metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next bytes of the data, in pieces of any size.
  void write(std::span<const std::byte> bytes);
  // All announced bytes must have been written.
  void finish();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
  uint64_t left_ = 0;
};

// Whole file at once. Hugging Face's loaders ask for metadata {"format": "pt"}.
void write_safetensors(const std::filesystem::path& path, std::span<const OutTensor> tensors,
                       const TensorMetadata& metadata = {{"format", "pt"}});

}  // namespace llmft
