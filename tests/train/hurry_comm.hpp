// A Comm that counts what would hold up a device: waits for gradients that were sent last, and for weights of
// which no other block's use came between asking and waiting, which had no time to travel.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "llmft/comm/comm.hpp"

class HurryComm final : public llmft::Comm {
 public:
  explicit HurryComm(std::unique_ptr<llmft::Comm> comm) : comm_(std::move(comm)) {}

  int hurried = 0;

  int rank() const override { return comm_->rank(); }
  int size() const override { return comm_->size(); }
  llmft::Started start_all_reduce(const llmft::Tensor& x) override {
    return started("all_reduce", comm_->start_all_reduce(x));
  }
  llmft::Started start_all_gather(const llmft::Tensor& shard, const llmft::Tensor& full) override {
    return started("all_gather", comm_->start_all_gather(shard, full));
  }
  llmft::Started start_reduce_scatter(const llmft::Tensor& full, const llmft::Tensor& shard) override {
    return started("reduce_scatter", comm_->start_reduce_scatter(full, shard));
  }
  llmft::Started start_all_to_all(const llmft::Tensor& sent, const llmft::Tensor& received) override {
    return started("all_to_all", comm_->start_all_to_all(sent, received));
  }
  llmft::Started start_broadcast(const llmft::Tensor& x, int root) override {
    return started("broadcast", comm_->start_broadcast(x, root));
  }
  llmft::Started start_together(const char*, size_t, const std::function<void()>& start) override {
    start();
    return {number_};
  }
  void wait(llmft::Started collective) override {
    ++waits_;
    if (collective.number <= waited_) return;
    waited_ = collective.number;
    const Call& call = calls_[collective.number];
    hurried += call.kind == "all_gather" ? call.waits + 1 == waits_ : last_[call.kind] == collective.number;
  }
  void all_reduce_host(std::span<double> values) override { comm_->all_reduce_host(values); }
  Exposed exposed() override { return comm_->exposed(); }
  std::unique_ptr<llmft::Comm> split(int colour) override { return comm_->split(colour); }

 private:
  struct Call {
    std::string kind;
    int waits;  // before it
  };
  llmft::Started started(const char* kind, llmft::Started) {
    calls_[++number_] = {kind, waits_};
    return {last_[kind] = number_};
  }

  std::unique_ptr<llmft::Comm> comm_;
  std::map<uint64_t, Call> calls_;
  std::map<std::string, uint64_t> last_;
  uint64_t number_ = 0, waited_ = 0;
  int waits_ = 0;
};
