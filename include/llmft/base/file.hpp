// Files: read whole or mapped, written atomically (temporary name in the same folder, fsync, rename), so that
// a reader sees the old file or the new one and never half of one. All throw UserError with path and errno's
// text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace llmft {

std::string read_file(const std::filesystem::path& path);
void write_file_atomic(const std::filesystem::path& path, std::string_view content);

// "<path>.tmp.<pid>": the name that atomic writers use before the rename.
std::filesystem::path temporary_name(const std::filesystem::path& path);
// fsync of the file, rename, fsync of the folder.
void commit_file(const std::filesystem::path& temporary, const std::filesystem::path& path);

// The system may forget what it has in memory of a part of a file that is on disk; a hint.
void drop_from_cache(const std::filesystem::path& path, uint64_t begin, uint64_t end);

// mkdir -p, with a clear error when it cannot be made or not be written to.
void make_writable_folder(const std::filesystem::path& path);

// XXH3 128-bit of the content, 32 hex digits, prefixed "xxh3-128:".
std::string hash_file(const std::filesystem::path& path);
std::string hash_bytes(std::string_view bytes);
uint64_t hash64(std::string_view bytes, uint64_t seed = 0);

// A read-only memory map. Moves, does not copy.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  MappedFile(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // Copies a part of bytes() to `out` by reading the file, which costs no page faults: for much of it at
  // once. Any thread. UserError when it cannot be read.
  void read(std::span<const std::byte> part, void* out) const;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace llmft
