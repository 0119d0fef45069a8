// What a collective costs the device is the time that it stands in wait(): the rest runs beside its work.
#include <utility>

#include "llmft/comm/peer_memory.hpp"
#include "llmft/device/profile.hpp"

namespace llmft {
namespace {

constexpr const char* kGroup = "communication";

class ProfiledPeerMemory final : public PeerMemory {
 public:
  ProfiledPeerMemory(std::unique_ptr<PeerMemory> inner, Device& device)
      : inner_(std::move(inner)), device_(device) {}
  Started start_gather(size_t which, const Tensor& full) override {
    ProfileScope s(device_.profile(), kGroup, 0, static_cast<double>(full.bytes()));
    return inner_->start_gather(which, full);
  }
  void wait(Started gathering) override {
    ProfileScope s(device_.profile(), kGroup);
    inner_->wait(gathering);
  }
  void wait_all() override {
    ProfileScope s(device_.profile(), kGroup);
    inner_->wait_all();
  }
  void after(Started collective) override { inner_->after(collective); }

 private:
  std::unique_ptr<PeerMemory> inner_;
  Device& device_;
};

class ProfiledComm final : public Comm {
 public:
  ProfiledComm(std::unique_ptr<Comm> inner, Device& device) : inner_(std::move(inner)), device_(device) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  Started start_all_reduce(const Tensor& x) override {
    auto s = scope(x);
    return inner_->start_all_reduce(x);
  }
  Started start_all_gather(const Tensor& shard, const Tensor& full) override {
    auto s = scope(full);
    return inner_->start_all_gather(shard, full);
  }
  Started start_reduce_scatter(const Tensor& full, const Tensor& shard) override {
    auto s = scope(full);
    return inner_->start_reduce_scatter(full, shard);
  }
  Started start_all_to_all(const Tensor& sent, const Tensor& received) override {
    auto s = scope(sent);
    return inner_->start_all_to_all(sent, received);
  }
  Started start_broadcast(const Tensor& x, int root) override {
    auto s = scope(x);
    return inner_->start_broadcast(x, root);
  }
  Started start_together(const char* name, size_t bytes, const std::function<void()>& start) override {
    return inner_->start_together(name, bytes, start);
  }
  void wait(Started collective) override {
    ProfileScope s(device_.profile(), kGroup);
    inner_->wait(collective);
  }
  void all_reduce_host(std::span<double> values) override {
    ProfileScope s(device_.profile(), kGroup);
    inner_->all_reduce_host(values);
  }
  Exposed exposed() override { return inner_->exposed(); }
  std::unique_ptr<Comm> split(int colour) override {
    return std::make_unique<ProfiledComm>(inner_->split(colour), device_);
  }
  std::unique_ptr<PeerMemory> share(const std::vector<Tensor>& shards) override {
    auto memory = inner_->share(shards);
    return memory == nullptr ? nullptr : std::make_unique<ProfiledPeerMemory>(std::move(memory), device_);
  }

 private:
  ProfileScope scope(const Tensor& x) const {
    return {device_.profile(), kGroup, 0, size() > 1 ? static_cast<double>(x.bytes()) : 0};
  }

  std::unique_ptr<Comm> inner_;
  Device& device_;
};

}  // namespace

std::unique_ptr<Comm> make_profiled_comm(std::unique_ptr<Comm> inner, Device& device) {
  return std::make_unique<ProfiledComm>(std::move(inner), device);
}

}  // namespace llmft
