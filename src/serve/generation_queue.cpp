// submit() holds the lock from before Engine::submit until the sink is known, and events are handed out under
// the same lock's protection: no event can come before its sink.
#include "llmft/serve/generation_queue.hpp"

#include <utility>

namespace llmft {

GenerationQueue::GenerationQueue(Engine& engine, int64_t max_waiting, std::function<void()> failed)
    : engine_(engine),
      capacity_(engine.max_sequences() + max_waiting),
      failed_(std::move(failed)),
      thread_([this] { drive(); }) {}

GenerationQueue::~GenerationQueue() {
  stop();
}

std::vector<uint64_t> GenerationQueue::submit(std::vector<Job> jobs, const std::function<void()>& accepted) {
  std::vector<uint64_t> numbers;
  std::lock_guard lock(mutex_);
  if (stopping_) throw QueueEnding("the server is ending");
  if (static_cast<int64_t>(sinks_.size() + jobs.size()) > capacity_)
    throw QueueFull("the server has as many requests as it takes");
  try {
    for (Job& job : jobs) {
      uint64_t number = engine_.submit(std::move(job.request));
      sinks_.emplace(number, std::move(job.sink));
      numbers.push_back(number);
    }
  } catch (...) {
    for (uint64_t number : numbers) {
      engine_.cancel(number);
      sinks_[number] = [](const GenerationEvent&) {};
    }
    work_.notify_one();
    throw;
  }
  if (accepted) accepted();
  work_.notify_one();
  return numbers;
}

void GenerationQueue::cancel(uint64_t request) {
  engine_.cancel(request);
  work_.notify_one();
}

int64_t GenerationQueue::held() const {
  std::lock_guard lock(mutex_);
  return static_cast<int64_t>(sinks_.size());
}

std::exception_ptr GenerationQueue::failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

void GenerationQueue::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
  std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void GenerationQueue::drive() {
  std::unique_lock lock(mutex_);
  while (!stopping_ && !failure_) {
    work_.wait(lock, [&] { return stopping_ || !sinks_.empty(); });
    if (stopping_) break;
    lock.unlock();
    std::vector<GenerationEvent> events;
    try {
      events = engine_.step();
    } catch (...) {
      lock.lock();
      failure_ = std::current_exception();
      break;
    }
    for (const GenerationEvent& event : events) {
      lock.lock();
      auto found = sinks_.find(event.request);
      Sink sink;
      if (found != sinks_.end()) {
        sink = found->second;
        if (event.finish != FinishReason::running) sinks_.erase(found);
      }
      lock.unlock();
      if (sink) sink(event);
    }
    lock.lock();
  }
  stopping_ = true;
  auto open = std::exchange(sinks_, {});
  bool broken = failure_ != nullptr;
  lock.unlock();
  for (auto& [number, sink] : open)
    sink({.request = number, .tokens = {}, .text = {}, .finish = FinishReason::cancelled});
  open.clear();
  if (broken) failed_();
}

}  // namespace llmft
