#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "llmft/device/device.hpp"

using namespace llmft;

namespace {

constexpr MemoryPart kAllParts[] = {MemoryPart::weights,   MemoryPart::adapters,    MemoryPart::gradients,
                                    MemoryPart::optimizer, MemoryPart::activations, MemoryPart::logits,
                                    MemoryPart::workspace, MemoryPart::gathered};

// A device with room for so many bytes.
class SmallDevice final : public Device {
 public:
  explicit SmallDevice(size_t room) : room_(room) {}
  DeviceKind kind() const override { return DeviceKind::cpu; }
  std::string name() const override { return "small device"; }
  size_t total_memory() const override { return room_; }
  size_t free_memory() const override { return room_ - bytes_held(); }
  void synchronize() override {}
  std::unique_ptr<Mark> make_mark() override { return nullptr; }
  int open = 0;

 protected:
  void* allocate_raw(size_t bytes) override {
    if (bytes_held() + bytes > room_) return nullptr;
    ++open;
    return std::malloc(bytes);
  }
  void release_raw(void* data) override {
    --open;
    std::free(data);
  }
  void copy_to_device_raw(void*, const void*, size_t) override {}
  void copy_to_host_raw(void*, const void*, size_t) override {}
  void copy_raw(void*, const void*, size_t) override {}
  void zero_raw(void*, size_t) override {}
  void* allocate_host(size_t bytes) override { return std::malloc(bytes); }
  void release_host(void* data) override { std::free(data); }

 private:
  size_t room_;
};

}  // namespace

TEST_CASE("memory is accounted by part, with peaks") {
  auto device = make_cpu_device();
  CHECK(device->bytes_held() == 0);
  {
    Buffer weights(*device, 1000, MemoryPart::weights);
    Buffer gradients(*device, 500, MemoryPart::gradients);
    CHECK(device->bytes_held(MemoryPart::weights) == 1000);
    CHECK(device->bytes_held(MemoryPart::gradients) == 500);
    CHECK(device->bytes_held() == 1500);
    {
      Buffer more(*device, 300, MemoryPart::weights);
      CHECK(device->bytes_held(MemoryPart::weights) == 1300);
    }
    CHECK(device->bytes_held(MemoryPart::weights) == 1000);
  }
  CHECK(device->bytes_held() == 0);
  CHECK(device->peak_bytes() == 1800);
  CHECK(device->peak_bytes(MemoryPart::weights) == 1300);
  CHECK(device->peak_bytes(MemoryPart::gradients) == 500);
  CHECK(device->peak_bytes(MemoryPart::logits) == 0);
  // the peak is of what was held at one time, not the sum of the parts' peaks
  { Buffer alone(*device, 1600, MemoryPart::logits); }
  CHECK(device->peak_bytes() == 1800);
  CHECK(device->peak_bytes(MemoryPart::logits) == 1600);
}

TEST_CASE("a part has a name of its own") {
  for (MemoryPart a : kAllParts)
    for (MemoryPart b : kAllParts) CHECK((std::string(name_of(a)) == name_of(b)) == (a == b));
  CHECK(std::size(kAllParts) == kMemoryParts);
}

TEST_CASE("buffers own their memory once") {
  SmallDevice device(10000);
  Buffer first(device, 100, MemoryPart::weights);
  void* data = first.data();
  Buffer second(std::move(first));
  CHECK(second.data() == data);
  CHECK(device.open == 1);
  Buffer third(device, 200, MemoryPart::optimizer);
  third = std::move(second);
  CHECK(third.data() == data);
  CHECK(third.bytes() == 100);
  third = Buffer();
  second = Buffer();
  first = Buffer();
  CHECK(device.open == 0);
  CHECK(device.bytes_held() == 0);
  Buffer nothing(device, 0, MemoryPart::weights);
  CHECK(nothing.data() == nullptr);
  CHECK(device.open == 0);
}

TEST_CASE("running out of memory says for what and how much, and loses nothing") {
  SmallDevice device(1000);
  Buffer held(device, 900, MemoryPart::weights);
  std::string message;
  try {
    Buffer more(device, 200, MemoryPart::logits);
  } catch (const UserError& error) {
    message = error.what();
  }
  for (const char* part : {"small device", "logits", "200", "900"})
    CHECK(message.find(part) != std::string::npos);
  CHECK(device.bytes_held() == 900);
  CHECK(device.bytes_held(MemoryPart::logits) == 0);
}

TEST_CASE("a GPU without code for it is refused by name") {
  CHECK_NOTHROW(require_supported({"H100", 0, 9, 0, "", ""}));
  CHECK_NOTHROW(require_supported({"B200", 0, 10, 0, "", ""}));
  std::string message;
  try {
    require_supported({"NVIDIA A100-SXM4-80GB", 0, 8, 0, "", ""});
  } catch (const UserError& error) {
    message = error.what();
  }
  for (const char* part : {"NVIDIA A100-SXM4-80GB is too old", "8.0", "9.0 is the oldest", "--device cpu"})
    CHECK(message.find(part) != std::string::npos);
}

TEST_CASE("CPU memory is aligned, copied and cleared") {
  auto device = make_cpu_device();
  for (size_t bytes : {1, 255, 256, 1000}) {
    Buffer buffer(*device, bytes, MemoryPart::workspace), other(*device, bytes, MemoryPart::workspace);
    CHECK(reinterpret_cast<uintptr_t>(buffer.data()) % 256 == 0);
    std::vector<unsigned char> from(bytes), to(bytes, 1);
    for (size_t i = 0; i < bytes; ++i) from[i] = static_cast<unsigned char>(i * 7 + 1);
    device->copy_to_device(buffer.data(), from.data(), bytes);
    device->copy(other.data(), buffer.data(), bytes);
    device->copy_to_host(to.data(), other.data(), bytes);
    device->synchronize();
    CHECK(to == from);
    device->zero(other.data(), bytes - 1);
    device->copy_to_host(to.data(), other.data(), bytes);
    CHECK(std::vector<unsigned char>(to.begin(), to.end() - 1) == std::vector<unsigned char>(bytes - 1));
    CHECK(to.back() == from.back());
  }
  device->copy(nullptr, nullptr, 0);
  device->zero(nullptr, 0);
  CHECK_FALSE(device->name().empty());
  CHECK(device->total_memory() > (size_t{1} << 20));
  CHECK(device->kind() == DeviceKind::cpu);
}

TEST_CASE("a buffer's views lie inside it") {
  auto device = make_cpu_device();
  Buffer buffer(*device, 100, MemoryPart::workspace);
  CHECK(buffer.view(DType::f32, 5, 5).ld == 5);
  CHECK(buffer.view(DType::bf16, 5, 5, 50).data == static_cast<std::byte*>(buffer.data()) + 50);
  CHECK_THROWS_AS(buffer.view(DType::f32, 5, 6), InternalError);
  CHECK_THROWS_AS(buffer.view(DType::bf16, 5, 5, 52), InternalError);
}

TEST_CASE("an arena takes what was planned, and shares where names are equal") {
  auto device = make_cpu_device();
  Arena arena;
  auto a = arena.reserve("a", MemoryPart::activations, DType::f32, 10, 4);
  auto b = arena.reserve("b", MemoryPart::activations, DType::bf16, 10, 4);
  auto small = arena.reserve("small", MemoryPart::workspace, DType::f32, 2, 4, "scratch");
  auto large = arena.reserve("large", MemoryPart::workspace, DType::bf16, 100, 3, "scratch");
  auto other = arena.reserve("other", MemoryPart::workspace, DType::f32, 1, 1, "other");
  CHECK(arena.planned_bytes(MemoryPart::activations) == 160 + 80);
  CHECK(arena.planned_bytes(MemoryPart::workspace) == 600 + 4);
  CHECK(arena.planned_bytes(MemoryPart::logits) == 0);
  CHECK(device->bytes_held() == 0);

  arena.commit(*device);
  for (MemoryPart part : kAllParts) CHECK(device->bytes_held(part) == arena.planned_bytes(part));
  CHECK(arena.view(small).data == arena.view(large).data);
  CHECK(arena.view(small).data != arena.view(other).data);
  CHECK(arena.view(large).dtype == DType::bf16);
  CHECK(arena.view(large).rows == 100);
  CHECK(arena.view(large).cols == 3);
  CHECK(arena.view(a, 7).rows == 7);
  CHECK(arena.view(a, 0).numel() == 0);
  CHECK_THROWS_AS(arena.view(a, 11), InternalError);

  // what does not share does not overlap
  device->zero(arena.view(b).data, arena.view(b).bytes());
  std::memset(arena.view(a).data, 0xff, arena.view(a).bytes());
  std::vector<std::byte> bytes(arena.view(b).bytes());
  device->copy_to_host(bytes.data(), arena.view(b).data, bytes.size());
  CHECK(bytes == std::vector<std::byte>(bytes.size()));
  CHECK_THROWS_AS(arena.reserve("late", MemoryPart::workspace, DType::f32, 1, 1, "scratch"), InternalError);
}

TEST_CASE("an arena gives its memory back") {
  auto device = make_cpu_device();
  {
    Arena arena;
    arena.reserve("x", MemoryPart::gradients, DType::f32, 3, 3);
    arena.commit(*device);
    CHECK(device->bytes_held(MemoryPart::gradients) == 36);
  }
  CHECK(device->bytes_held() == 0);
}
