#include "line.hpp"

#include "llmft/base/text.hpp"
#include "llmft/comm/activity.hpp"

namespace llmft {

void StallClock::begin() {
  if (free_.empty()) collect();
  if (free_.empty()) free_.push_back(std::make_unique<Pair>());
  under_way_.push_back(std::move(free_.back()));
  free_.pop_back();
  cuda_check(cudaEventRecord(under_way_.back()->from.get(), stream_));
}

void StallClock::end() {
  cuda_check(cudaEventRecord(under_way_.back()->to.get(), stream_));
  ++total_.waits;
}

void StallClock::collect() {
  while (!under_way_.empty() && cudaEventQuery(under_way_.front()->to.get()) == cudaSuccess) {
    float milliseconds = 0;
    cuda_check(
        cudaEventElapsedTime(&milliseconds, under_way_.front()->from.get(), under_way_.front()->to.get()));
    total_.seconds += static_cast<double>(milliseconds) / 1e3;
    free_.push_back(std::move(under_way_.front()));
    under_way_.pop_front();
  }
}

Comm::Exposed StallClock::read() {
  collect();
  return total_;
}

Line::Line(CudaDevice& device) : Line(device, std::make_shared<StallClock>(device.stream()), true) {}

std::shared_ptr<Line> Line::beside(const Line& collectives) {
  return std::shared_ptr<Line>(new Line(collectives.device_, collectives.stalls_, false));
}

Line::Line(CudaDevice& device, std::shared_ptr<StallClock> stalls, bool watched)
    : device_(device), stalls_(std::move(stalls)), watched_(watched) {
  int least = 0, greatest = 0;
  cuda_check(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  cuda_check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest));
  if (watched_) Activity::of_process().set_device_view([this] { return oldest_under_way(); });
}

Line::~Line() {
  if (watched_) Activity::of_process().set_device_view(nullptr);
  cudaStreamDestroy(stream_);
}

void Line::begin(const char* name, size_t bytes) {
  if (watched_) Activity::of_process().called(name, bytes);
  cuda_check(cudaEventRecord(ready_.get(), device_.stream()));
  cuda_check(cudaStreamWaitEvent(stream_, ready_.get()));
}

Started Line::end(const char* name, size_t bytes) {
  std::lock_guard lock(mutex_);
  uint64_t number = ++started_;
  auto& event = events_[number % kEvents];
  if (!event) event = std::make_unique<Event>(cudaEventDisableTiming);
  cuda_check(cudaEventRecord(event->get(), stream_));
  names_[number % kEvents] = {name, bytes};
  return {number};
}

void Line::wait(Started work) {
  if (work.number <= waited_) return;
  waited_ = work.number;
  stalls_->begin();
  cuda_check(cudaStreamWaitEvent(device_.stream(), done(work.number)));
  stalls_->end();
}

void Line::after(const Line& other, Started work) {
  if (work.number != 0) cuda_check(cudaStreamWaitEvent(stream_, other.done(work.number)));
}

// The oldest collective under way, for the watchdog's thread, which is not to wait for this one: a launch may
// itself wait for a GPU that stands still.
std::string Line::oldest_under_way() {
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return "a launch on the GPU";
  cudaSetDevice(device_.ordinal());
  for (uint64_t n = started_ > kEvents ? started_ - kEvents + 1 : 1; n <= started_; ++n) {
    auto [name, bytes] = names_[n % kEvents];
    if (cudaEventQuery(done(n)) == cudaErrorNotReady)
      return fmt::format("number {}, {}", n, describe_call(name, bytes));
  }
  return "";
}

}  // namespace llmft
