// A stream beside the compute stream, for what travels between ranks: each piece of work first waits for an
// event of the compute stream, and the compute stream waits for an event of its only in wait().
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "llmft/comm/comm.hpp"
#include "llmft/device/cuda_device.hpp"

namespace llmft {

class Event {
 public:
  explicit Event(unsigned flags) { cuda_check(cudaEventCreateWithFlags(&event_, flags)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// Time between pairs of events on the compute stream, read without making the host wait.
class StallClock {
 public:
  explicit StallClock(cudaStream_t stream) : stream_(stream) {}
  void begin();
  void end();
  Comm::Exposed read();

 private:
  void collect();

  struct Pair {
    Event from{cudaEventDefault}, to{cudaEventDefault};
  };
  cudaStream_t stream_;
  std::deque<std::unique_ptr<Pair>> under_way_;
  std::deque<std::unique_ptr<Pair>> free_;
  Comm::Exposed total_;
};

class Line {
 public:
  // For a communicator and its split parts: one line, so that no two communicators' kernels wait for each
  // other in different orders on different ranks. The watchdog looks at it.
  explicit Line(CudaDevice& device);
  // For work that is no collective, of which the watchdog knows nothing; its waits count into the same sum.
  static std::shared_ptr<Line> beside(const Line& collectives);
  ~Line();
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;

  CudaDevice& device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  Comm::Exposed exposed() { return stalls_->read(); }

  // What is launched between the two begins after all that the compute stream was given.
  void begin(const char* name, size_t bytes);
  Started end(const char* name, size_t bytes);
  // An event that was used again belongs to later work: waiting for that is waiting for both.
  void wait(Started work);
  void wait_all() { wait({started_}); }
  // What begins here from now on begins after that.
  void after(const Line& other, Started work);

 private:
  Line(CudaDevice& device, std::shared_ptr<StallClock> stalls, bool watched);
  cudaEvent_t done(uint64_t number) const { return events_[number % kEvents]->get(); }
  std::string oldest_under_way();

  static constexpr size_t kEvents = 64;
  CudaDevice& device_;
  cudaStream_t stream_ = nullptr;
  Event ready_{cudaEventDisableTiming};
  std::mutex mutex_;  // of the three below: the watchdog's thread looks at them
  std::array<std::unique_ptr<Event>, kEvents> events_;
  std::array<std::pair<const char*, size_t>, kEvents> names_{};
  uint64_t started_ = 0;
  uint64_t waited_ = 0;
  std::shared_ptr<StallClock> stalls_;
  bool watched_;
};

}  // namespace llmft
