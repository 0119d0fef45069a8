// A one-dimensional chunked dataset of a mapped HDF5 file, and the checksum of its chunks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <hdf5.h>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"

namespace llmft {

// The sum of HDF5's Fletcher32 filter (H5_checksum_fletcher32). size is even.
uint32_t fletcher32(const std::byte* bytes, size_t size);

// A shard that is not whole; a file that is, but of another program or version.
class DamagedShard : public UserError {
 public:
  using UserError::UserError;
};
class ForeignShard : public UserError {
 public:
  using UserError::UserError;
};
[[noreturn]] void damaged_shard(const std::filesystem::path& path, const std::string& reason);

// HDF5 says where the chunks lie; the map, which must outlive this, has the data. Elements are little-endian,
// as on every machine this program is built for. Safe from several threads once open.
class ChunkedArray {
 public:
  // element: bytes of an unsigned integer, 4 or 8.
  void open(const std::filesystem::path& path, const MappedFile& map, hid_t file, const char* name,
            size_t element);
  uint64_t size() const { return size_; }
  // Verifies each chunk's checksum when it is first touched.
  void read(uint64_t begin, uint64_t count, void* out) const;
  void verify_all() const;

 private:
  void verify(size_t chunk) const;

  std::string path_;
  std::string name_;
  size_t element_ = 4;
  uint64_t size_ = 0;
  uint64_t chunk_ = 1;
  std::vector<const std::byte*> chunks_;
  std::unique_ptr<std::atomic<bool>[]> verified_;
};

}  // namespace llmft
