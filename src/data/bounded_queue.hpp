// Hands work from one thread to the next: a producer that is ahead waits, so memory is bounded by capacity.
// stop() ends both sides at once, for errors.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <vector>

namespace llmft {

template <class T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  // False, and the value is dropped, once the queue is stopped. meanwhile: called now and then while there is
  // no room.
  template <class F>
  bool push(T value, F&& meanwhile) {
    std::unique_lock lock(mutex_);
    auto ready = [&] { return stopped_ || values_.size() < capacity_; };
    while (!room_.wait_for(lock, std::chrono::milliseconds(5), ready)) {
      lock.unlock();
      meanwhile();
      lock.lock();
    }
    if (stopped_) return false;
    values_.push_back(std::move(value));
    some_.notify_one();
    return true;
  }

  bool push(T value) {
    return push(std::move(value), [] {});
  }

  // Nothing once the queue is closed and empty, or stopped.
  std::optional<T> pop() {
    std::unique_lock lock(mutex_);
    some_.wait(lock, [&] { return stopped_ || closed_ || !values_.empty(); });
    if (stopped_ || values_.empty()) return std::nullopt;
    T value = std::move(values_.front());
    values_.pop_front();
    room_.notify_one();
    return value;
  }

  // No more values come; those that are there are still handed out.
  void close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    some_.notify_all();
  }
  void stop() {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    some_.notify_all();
    room_.notify_all();
  }

 private:
  size_t capacity_;
  std::mutex mutex_;
  std::condition_variable some_;
  std::condition_variable room_;
  std::deque<T> values_;
  bool closed_ = false;
  bool stopped_ = false;
};

// Buffers on their way back to who fills them: fresh memory for each batch would cost a page fault every 4
// KB.
template <class T>
class SpareList {
 public:
  void put(T value) {
    std::lock_guard lock(mutex_);
    if (values_.size() < kMost) values_.push_back(std::move(value));
  }
  // One that was put, with what was in it, or a new one.
  T take() {
    std::lock_guard lock(mutex_);
    if (values_.empty()) return T();
    T value = std::move(values_.back());
    values_.pop_back();
    return value;
  }

 private:
  static constexpr size_t kMost = 16;
  std::mutex mutex_;
  std::vector<T> values_;
};

}  // namespace llmft
