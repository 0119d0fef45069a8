// Runs an Engine on a thread of its own for many callers, and bounds how many requests it holds.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <unordered_map>
#include <vector>

#include "llmft/generate/engine.hpp"

namespace llmft {

class QueueFull : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class QueueEnding : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class GenerationQueue {
 public:
  // Called on the queue's thread for every event of a request; must not block. After `finish` is not running
  // there is no further event.
  using Sink = std::function<void(const GenerationEvent&)>;
  struct Job {
    GenerationRequest request;
    Sink sink;
  };

  // The engine is driven from here on, and must outlive this. max_waiting: requests beyond max_sequences().
  // failed: the engine threw; called on the queue's thread after all sinks got `cancelled`.
  GenerationQueue(Engine& engine, int64_t max_waiting, std::function<void()> failed);
  ~GenerationQueue();
  GenerationQueue(const GenerationQueue&) = delete;
  GenerationQueue& operator=(const GenerationQueue&) = delete;

  // All jobs or none. QueueFull; UserError as Engine::submit. accepted: called before any event of them. The
  // requests' numbers.
  std::vector<uint64_t> submit(std::vector<Job> jobs, const std::function<void()>& accepted = {});
  void cancel(uint64_t request);
  // Every open request gets `cancelled`, further ones QueueFull; returns when the thread has ended.
  void stop();

  const Engine& engine() const { return engine_; }
  int64_t held() const;
  // What the engine threw, if it did.
  std::exception_ptr failure() const;

 private:
  void drive();

  Engine& engine_;
  int64_t capacity_;
  std::function<void()> failed_;
  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::unordered_map<uint64_t, Sink> sinks_;
  std::exception_ptr failure_;
  bool stopping_ = false;
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace llmft
