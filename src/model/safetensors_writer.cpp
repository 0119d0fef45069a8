// Writing. The temporary file is this object's until finish() has renamed it.
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/model/safetensors.hpp"

namespace llmft {
namespace {

uint64_t data_bytes(const OutTensor& tensor) {
  uint64_t bytes = size_of(tensor.dtype);
  for (int64_t extent : tensor.shape) {
    check(extent >= 0, "negative extent in a tensor's shape");
    check(!__builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes), "shape overflows");
  }
  return bytes;
}

// Length word and padded JSON.
std::string header_of(std::span<const OutTensor> tensors, const TensorMetadata& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const OutTensor& tensor : tensors) {
    uint64_t end = offset + data_bytes(tensor);
    header[tensor.name] = {
        {"dtype", name_of(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  check(header.size() == tensors.size() + (metadata.empty() ? 0 : 1), "two tensors of one name");
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  uint64_t size = text.size();
  std::string out(sizeof size, '\0');
  std::memcpy(out.data(), &size, sizeof size);
  return out + text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::span<const OutTensor> tensors,
                                     const TensorMetadata& metadata)
    : path_(path), temporary_(temporary_name(path)) {
  std::string header = header_of(tensors, metadata);
  left_ = header.size();
  for (const OutTensor& tensor : tensors) left_ += data_bytes(tensor);
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0)
    user_error("{}: cannot write ({}); choose another output folder", path.string(), std::strerror(errno));
  try {
    write(std::as_bytes(std::span(header)));
  } catch (...) {
    ::close(fd_);
    ::unlink(temporary_.c_str());
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  check(bytes.size() <= left_, "more tensor data than the header announced");
  left_ -= bytes.size();
  while (!bytes.empty()) {
    ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      user_error("{}: cannot write ({}); {}", path_.string(), std::strerror(errno),
                 errno == ENOSPC || errno == EDQUOT ? "free space or choose another output folder"
                                                    : "check the file system");
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void SafetensorsWriter::finish() {
  check(left_ == 0, "less tensor data than the header announced");
  commit_file(temporary_, path_);
  ::close(fd_);
  fd_ = -1;
}

void write_safetensors(const std::filesystem::path& path, std::span<const OutTensor> tensors,
                       const TensorMetadata& metadata) {
  SafetensorsWriter writer(path, tensors, metadata);
  for (const OutTensor& tensor : tensors)
    writer.write({static_cast<const std::byte*>(tensor.data), data_bytes(tensor)});
  writer.finish();
}

}  // namespace llmft
