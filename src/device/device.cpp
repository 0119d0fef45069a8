#include "llmft/device/device.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "llmft/base/text.hpp"
#include "llmft/device/profile.hpp"

namespace llmft {

const char* name_of(MemoryPart part) {
  constexpr const char* names[kMemoryParts] = {"weights",     "adapters", "gradients", "optimizer",
                                               "activations", "logits",   "workspace", "gathered"};
  return names[static_cast<size_t>(part)];
}

void* Device::allocate(size_t bytes, MemoryPart part) {
  if (bytes == 0) return nullptr;
  if (phase_ == DevicePhase::sealed && (kind() != DeviceKind::cpu || part != MemoryPart::workspace))
    internal_error(fmt::format("{} of device memory for {} were not planned before the first step",
                               human_bytes(static_cast<double>(bytes)), name_of(part)));
  void* data = allocate_raw(bytes);
  if (data == nullptr)
    user_error("{}: out of memory for {} ({} wanted, {} held); {}", name(), name_of(part),
               human_bytes(static_cast<double>(bytes)), human_bytes(static_cast<double>(bytes_held())),
               memory_advice_);
  auto i = static_cast<size_t>(part);
  held_[i] += bytes;
  peak_by_part_[i] = std::max(peak_by_part_[i], held_[i]);
  peak_ = std::max(peak_, bytes_held());
  return data;
}

void Device::release(void* data, size_t bytes, MemoryPart part) {
  if (data == nullptr) return;
  held_[static_cast<size_t>(part)] -= bytes;
  release_raw(data);
}

void Device::copy_to_device(void* device, const void* host, size_t bytes) {
  ProfileScope scope(profile_, "copies to the device", 0, static_cast<double>(bytes));
  copy_to_device_raw(device, host, bytes);
}

void Device::copy_to_host(void* host, const void* device, size_t bytes) {
  ProfileScope scope(profile_, "copies to the host", 0, static_cast<double>(bytes));
  copy_to_host_raw(host, device, bytes);
}

void Device::copy(void* to, const void* from, size_t bytes) {
  ProfileScope scope(profile_, "copies", 0, 2 * static_cast<double>(bytes));
  copy_raw(to, from, bytes);
}

void Device::zero(void* data, size_t bytes) {
  ProfileScope scope(profile_, "clearing", 0, static_cast<double>(bytes));
  zero_raw(data, bytes);
}

size_t Device::bytes_held() const {
  return std::accumulate(held_.begin(), held_.end(), size_t{0});
}

void require_supported(const GpuInfo& gpu) {
  constexpr int kOldestMajor = 9;  // Hopper
  if (gpu.compute_major >= kOldestMajor) return;
  user_error(
      "--device cuda: {} is too old (compute capability {}.{}, {}.0 is the oldest that works: H100 and "
      "later); use "
      "another partition, or --device cpu",
      gpu.name, gpu.compute_major, gpu.compute_minor, kOldestMajor);
}

Buffer::Buffer(Device& device, size_t bytes, MemoryPart part)
    : device_(&device), data_(device.allocate(bytes, part)), bytes_(bytes), part_(part) {}

Buffer::~Buffer() {
  if (data_ != nullptr) device_->release(data_, bytes_, part_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : device_(other.device_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      part_(other.part_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(part_, other.part_);
  return *this;
}

HostBuffer::HostBuffer(Device& device, size_t bytes)
    : device_(&device), data_(bytes == 0 ? nullptr : device.allocate_host(bytes)), bytes_(bytes) {}

HostBuffer::~HostBuffer() {
  if (data_ != nullptr) device_->release_host(data_);
}

HostBuffer::HostBuffer(HostBuffer&& other) noexcept
    : device_(other.device_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

HostBuffer& HostBuffer::operator=(HostBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Tensor Buffer::view(DType dtype, int64_t rows, int64_t cols, size_t offset) const {
  check(offset + static_cast<size_t>(rows * cols) * size_of(dtype) <= bytes_, "view larger than its buffer");
  return {static_cast<std::byte*>(data_) + offset, dtype, rows, cols, cols};
}

Arena::Slot Arena::reserve(std::string name, MemoryPart part, DType dtype, int64_t rows, int64_t cols,
                           const std::string& share) {
  size_t bytes = static_cast<size_t>(rows * cols) * size_of(dtype);
  size_t region = regions_.size();
  if (!share.empty())
    for (size_t i = 0; i < regions_.size(); ++i)
      if (regions_[i].share == share) region = i;
  if (region == regions_.size()) regions_.push_back({share, part, 0, {}});
  check(regions_[region].buffer.data() == nullptr, "arena: reserve after commit");
  regions_[region].bytes = std::max(regions_[region].bytes, bytes);
  entries_.push_back({std::move(name), part, dtype, rows, cols, region});
  return {static_cast<int>(entries_.size()) - 1};
}

void Arena::commit(Device& device) {
  for (Region& region : regions_) region.buffer = Buffer(device, region.bytes, region.part);
}

Tensor Arena::view(Slot slot, int64_t rows) const {
  const Entry& entry = entries_.at(static_cast<size_t>(slot.index));
  check(rows <= entry.rows, "arena: more rows than were planned");
  return regions_[entry.region].buffer.view(entry.dtype, rows < 0 ? entry.rows : rows, entry.cols);
}

size_t Arena::planned_bytes(MemoryPart part) const {
  size_t total = 0;
  for (const Region& region : regions_)
    if (region.part == part) total += region.bytes;
  return total;
}

}  // namespace llmft
