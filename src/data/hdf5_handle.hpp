// HDF5 handles that close themselves, and errors with the library's own reason. Used by shard_file's two
// sources only.
#pragma once

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

}  // namespace llmft::hdf5
