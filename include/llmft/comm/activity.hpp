// What this rank is doing among its ranks: written by the thread that calls collectives, read by the
// watchdog's. Ranks make the same calls in the same order, so a rank with fewer calls than others is the one
// they wait for.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

namespace llmft {

class Activity {
 public:
  static Activity& of_process();

  // A collective that has been called; a device's goes on by itself.
  void called(const char* name, size_t bytes) {
    name_.store(name, std::memory_order_relaxed);
    bytes_.store(bytes, std::memory_order_relaxed);
    calls_.fetch_add(1, std::memory_order_release);
  }
  // The life of a call that this thread waits in.
  class Waiting {
   public:
    Waiting(const char* name, size_t bytes) {
      of_process().called(name, bytes);
      of_process().waiting_.fetch_add(1, std::memory_order_relaxed);
    }
    ~Waiting() { of_process().waiting_.fetch_sub(1, std::memory_order_relaxed); }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;
  };

  struct View {
    uint64_t calls = 0;
    bool waiting = false;
    std::string call;    // the last one: "all_gather of 121.6 MiB"
    std::string device;  // the oldest collective that the device has not finished; "" for none
  };
  View view() const;

  // Asked by view(), from its thread; null: no device.
  void set_device_view(std::function<std::string()> view);

 private:
  std::atomic<uint64_t> calls_{0};
  std::atomic<const char*> name_{""};
  std::atomic<size_t> bytes_{0};
  std::atomic<int> waiting_{0};
  mutable std::mutex mutex_;
  std::function<std::string()> device_view_;
};

// "all_gather of 121.6 MiB", "barrier"
std::string describe_call(const char* name, size_t bytes);

}  // namespace llmft
