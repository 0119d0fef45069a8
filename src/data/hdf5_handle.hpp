// HDF5 handles that close themselves, errors with the library's own reason, and what shard files are made of.
#pragma once

#include <filesystem>
#include <string>
#include <utility>

#include <hdf5.h>

namespace llmft::hdf5 {

// Call before anything else of HDF5: no error printing of its own, and no clean-up at exit, which after a
// failed write would try the write again.
void initialise();

// The system's or the library's reason for the last failure of this thread: "No space left on device".
std::string last_error();

class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Close close) : id_(id), close_(close) {}
  ~Handle() { reset(); }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      reset();
      id_ = std::exchange(other.id_, -1);
      close_ = other.close_;
    }
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  hid_t get() const { return id_; }
  bool valid() const { return id_ >= 0; }
  // False when closing failed, which for a file means that its last bytes were not written.
  bool reset() {
    hid_t id = std::exchange(id_, -1);
    return id < 0 || close_(id) >= 0;
  }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

// Not valid where it cannot be opened. Takes no lock.
Handle open_for_reading(const std::filesystem::path& path);

// An HDF5 file to which one-dimensional datasets are written, under a temporary name. Every chunk carries a
// Fletcher32. The bytes are a function of the calls alone: no times, fixed bounds of the format. UserError,
// naming the final path, when something cannot be written; the temporary file is removed unless committed.
class NewFile {
 public:
  explicit NewFile(std::filesystem::path path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  Handle create_dataset(const char* name, hid_t file_type, hsize_t chunk);
  void append(Handle& set, hid_t memory_type, hsize_t at, hsize_t count, const void* data);
  // Grows the set to size elements of which whole chunks are then written as they are, sum included.
  void grow(Handle& set, hsize_t size);
  void write_chunk(Handle& set, hsize_t at, const void* chunk_and_sum, size_t bytes);
  void finish(Handle& set);  // no more of it
  void attribute(const char* name, uint64_t value);
  void attribute(const char* name, const std::string& value);
  // The file is complete, under its temporary name.
  void close();
  // fsync and rename; uses no HDF5.
  void commit();
  const std::filesystem::path& path() const { return path_; }

 private:
  void need(bool ok);

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  Handle file_;
  bool committed_ = false;
};

}  // namespace llmft::hdf5
