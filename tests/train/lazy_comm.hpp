// A Comm that puts every collective off for as long as the interface allows: until it, or a later one, is
// waited for. What reads a result too early, or writes a tensor that is still under way, computes something
// else.
#pragma once

#include <deque>
#include <functional>
#include <utility>

#include "llmft/comm/comm.hpp"

class LazyComm final : public llmft::Comm {
 public:
  explicit LazyComm(std::unique_ptr<llmft::Comm> comm)
      : LazyComm(std::move(comm), std::make_shared<Queue>()) {}

  int rank() const override { return comm_->rank(); }
  int size() const override { return comm_->size(); }
  llmft::Started start_all_reduce(const llmft::Tensor& x) override {
    return later([this, x] { comm_->all_reduce(x); });
  }
  llmft::Started start_all_gather(const llmft::Tensor& shard, const llmft::Tensor& full) override {
    return later([this, shard, full] { comm_->all_gather(shard, full); });
  }
  llmft::Started start_reduce_scatter(const llmft::Tensor& full, const llmft::Tensor& shard) override {
    return later([this, shard, full] { comm_->reduce_scatter(full, shard); });
  }
  llmft::Started start_all_to_all(const llmft::Tensor& sent, const llmft::Tensor& received) override {
    return later([this, sent, received] { comm_->all_to_all(sent, received); });
  }
  llmft::Started start_broadcast(const llmft::Tensor& x, int root) override {
    return later([this, x, root] { comm_->broadcast(x, root); });
  }
  llmft::Started start_together(const char*, size_t, const std::function<void()>& start) override {
    start();
    return {queue_->started};
  }
  void wait(llmft::Started collective) override {
    for (; queue_->done < collective.number; ++queue_->done) {
      queue_->work.front()();
      queue_->work.pop_front();
    }
  }
  void all_reduce_host(std::span<double> values) override { comm_->all_reduce_host(values); }
  Exposed exposed() override { return comm_->exposed(); }
  std::unique_ptr<llmft::Comm> split(int colour) override {
    return std::unique_ptr<llmft::Comm>(new LazyComm(comm_->split(colour), queue_));
  }

 private:
  struct Queue {  // of all parts: collectives are done in the order of the calls
    std::deque<std::function<void()>> work;
    uint64_t started = 0, done = 0;
  };
  LazyComm(std::unique_ptr<llmft::Comm> comm, std::shared_ptr<Queue> queue)
      : comm_(std::move(comm)), queue_(std::move(queue)) {}
  llmft::Started later(std::function<void()> work) {
    queue_->work.push_back(std::move(work));
    return {++queue_->started};
  }

  std::unique_ptr<llmft::Comm> comm_;
  std::shared_ptr<Queue> queue_;
};
