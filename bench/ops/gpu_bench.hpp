// What the benchmarks of CUDA ops share: a GPU's ops, tensors of standard normals and one way to measure.
// LLMFT_BENCH_SECONDS: so long a measurement of each (1 to 3: what the GPU's power limit leaves), with watts
// and millijoules.
#pragma once

#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include <benchmark/benchmark.h>

#include "llmft/base/clock.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/ops/backend.hpp"
#include "llmft/report/energy.hpp"

namespace llmft {

class GpuBench {
 public:
  explicit GpuBench(DType type, MatmulMode mode = MatmulMode::f32, const GemmTuning& tuning = {})
      : type_(type),
        device_(make_cuda_device(0)),
        ops_(make_cuda_ops(*device_, mode, KernelChoice::measured, tuning)) {}

  Ops* operator->() { return ops_.get(); }
  Ops& ops() { return *ops_; }
  Tensor matrix(int64_t rows, int64_t cols, double scale = 1) { return matrix_of(type_, rows, cols, scale); }
  // Standard normals times scale: a piece made on the host, then copied on and on.
  Tensor matrix_of(DType type, int64_t rows, int64_t cols, double scale = 1) {
    size_t element = size_of(type), bytes = static_cast<size_t>(rows * cols) * element;
    buffers_.emplace_back(*device_, bytes, MemoryPart::workspace);
    auto* data = static_cast<std::byte*>(buffers_.back().data());
    size_t filled = std::min(bytes, size_t{1} << 20);
    std::vector<std::byte> piece(filled);
    CounterRng rng(1, buffers_.size());
    visit_dtype(type, [&]<class S>(S) {
      for (size_t i = 0; i < filled / element; ++i) {
        S value = from_float<S>(static_cast<float>(scale * rng.normal(i)));
        std::memcpy(piece.data() + i * element, &value, element);
      }
    });
    device_->copy_to_device(data, piece.data(), filled);
    for (; filled < bytes; filled += std::min(filled, bytes - filled))
      device_->copy(data + filled, data, std::min(filled, bytes - filled));
    device_->synchronize();
    return buffers_.back().view(type, rows, cols);
  }
  // 0, step, 2 step, .. modulo below
  Indices indices(int64_t count, int64_t step, int64_t below) {
    std::vector<int32_t> list;
    for (int64_t i = 0; i < count; ++i) list.push_back(static_cast<int32_t>(i * step % below));
    size_t bytes = list.size() * sizeof(int32_t);
    buffers_.emplace_back(*device_, bytes, MemoryPart::workspace);
    device_->copy_to_device(buffers_.back().data(), list.data(), bytes);
    device_->synchronize();
    return {static_cast<const int32_t*>(buffers_.back().data()), count};
  }

  // The mean over launches one after another, so it has no launch gaps.
  void measure(benchmark::State& state, const std::function<void()>& op) {
    constexpr int kLaunches = 20;
    seconds_of(op, 3);
    const char* wanted = std::getenv("LLMFT_BENCH_SECONDS");
    double duration = wanted != nullptr ? std::strtod(wanted, nullptr) : 0;
    if (duration > 0) {
      measure_long(state, op, duration);
    } else {
      for (auto _ : state) state.SetIterationTime(seconds_of(op, kLaunches));
    }
  }

 private:
  // of one launch
  double seconds_of(const std::function<void()>& op, int launches) {
    Stopwatch watch;
    for (int i = 0; i < launches; ++i) op();
    device_->synchronize();
    return watch.seconds() / launches;
  }

  // One measurement, which stands for all iterations.
  void measure_long(benchmark::State& state, const std::function<void()>& op, double duration) {
    double once = seconds_of(op, 20);
    int launches = std::max(20, static_cast<int>(duration / once));
    seconds_of(op, launches / 3);  // the clock comes to rest
    EnergyMeter meter = EnergyMeter::of_gpu(list_gpus().at(0).bus_id);
    meter.joules();
    double seconds = seconds_of(op, launches), joules = meter.joules().value_or(0);
    for (auto _ : state) state.SetIterationTime(seconds);
    state.counters["W"] = joules / (seconds * launches);
    state.counters["mJ"] = 1e3 * joules / launches;
  }

  DType type_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Ops> ops_;
  std::vector<Buffer> buffers_;
};

inline bool no_gpu(benchmark::State& state) {
  if (cuda_device_count() > 0) return false;
  state.SkipWithError("no GPU on this machine");
  return true;
}

}  // namespace llmft
