#include "llmft/base/file.hpp"

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "llmft/base/error.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

// A file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, mode_t mode = 0)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {
    if (fd_ < 0)
      user_error("{}: cannot open ({}); check the path and its permissions", path.string(),
                 std::strerror(errno));
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

[[noreturn]] void write_failed(const fs::path& path) {
  const char* advice = errno == ENOSPC || errno == EDQUOT ? "free space or choose another output folder"
                                                          : "check the file system";
  user_error("{}: cannot write ({}); {}", path.string(), std::strerror(errno), advice);
}

std::string hex128(XXH128_hash_t hash) {
  return fmt::format("xxh3-128:{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace

std::string read_file(const fs::path& path) {
  Descriptor file(path, O_RDONLY);
  struct stat info {};
  if (::fstat(file.get(), &info) == 0 && S_ISDIR(info.st_mode))
    user_error("{}: is a folder, a file is needed", path.string());
  std::string content;
  content.resize(static_cast<size_t>(std::max<off_t>(info.st_size, 0)));
  size_t have = 0;
  while (true) {
    if (have == content.size()) content.resize(content.size() + 65536);
    ssize_t got = ::read(file.get(), content.data() + have, content.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) user_error("{}: cannot read ({})", path.string(), std::strerror(errno));
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  content.resize(have);
  return content;
}

fs::path temporary_name(const fs::path& path) {
  return path.string() + fmt::format(".tmp.{}", ::getpid());
}

void commit_file(const fs::path& temporary, const fs::path& path) {
  {
    Descriptor file(temporary, O_RDONLY);
    if (::fsync(file.get()) != 0) write_failed(temporary);
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) write_failed(path);
  fs::path folder = path.parent_path().empty() ? fs::path(".") : path.parent_path();
  int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    ::fsync(fd);  // some file systems refuse fsync on folders; the rename has happened either way
    ::close(fd);
  }
}

void write_file_atomic(const fs::path& path, std::string_view content) {
  fs::path temporary = temporary_name(path);
  try {
    Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    while (!content.empty()) {
      ssize_t written = ::write(file.get(), content.data(), content.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) write_failed(path);
      content.remove_prefix(static_cast<size_t>(written));
    }
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  commit_file(temporary, path);
}

void drop_from_cache(const fs::path& path, uint64_t begin, uint64_t end) {
  if (begin >= end) return;
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ::posix_fadvise(fd, static_cast<off_t>(begin), static_cast<off_t>(end - begin), POSIX_FADV_DONTNEED);
  ::close(fd);
}

void make_writable_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error || !fs::is_directory(path))
    user_error("{}: cannot make this folder ({}); choose another output path", path.string(),
               error ? error.message() : "a file of that name exists");
  fs::path probe = path / fmt::format(".write-test.{}", ::getpid());
  int fd = ::open(probe.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    user_error("{}: folder is not writable ({}); choose another output path", path.string(),
               std::strerror(errno));
  ::close(fd);
  ::unlink(probe.c_str());
}

std::string hash_file(const fs::path& path) {
  Descriptor file(path, O_RDONLY);
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  XXH3_128bits_reset(state.get());
  std::vector<char> buffer(1 << 20);
  while (true) {
    ssize_t got = ::read(file.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) user_error("{}: cannot read ({})", path.string(), std::strerror(errno));
    if (got == 0) return hex128(XXH3_128bits_digest(state.get()));
    XXH3_128bits_update(state.get(), buffer.data(), static_cast<size_t>(got));
  }
}

std::string hash_bytes(std::string_view bytes) {
  return hex128(XXH3_128bits(bytes.data(), bytes.size()));
}
uint64_t hash64(std::string_view bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  Descriptor file(path, O_RDONLY);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode))
    user_error("{}: not a regular file", path.string());
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  void* map = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (map == MAP_FAILED) user_error("{}: cannot map into memory ({})", path.string(), std::strerror(errno));
  data_ = static_cast<const std::byte*>(map);
  fd_ = ::fcntl(file.get(), F_DUPFD_CLOEXEC, 0);
  if (fd_ < 0) user_error("{}: cannot stay open ({})", path.string(), std::strerror(errno));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  if (fd_ >= 0) ::close(fd_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

void MappedFile::read(std::span<const std::byte> part, void* out) const {
  auto* to = static_cast<std::byte*>(out);
  auto offset = part.data() - data_;
  for (size_t done = 0; done < part.size();) {
    ssize_t n = ::pread(fd_, to + done, part.size() - done, offset + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      user_error("{}: cannot be read at byte {} ({}); was it changed meanwhile?", path_.string(),
                 static_cast<size_t>(offset) + done, n == 0 ? "it ends there" : std::strerror(errno));
    done += static_cast<size_t>(n);
  }
}

}  // namespace llmft
