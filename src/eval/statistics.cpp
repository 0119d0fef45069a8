#include "llmft/eval/statistics.hpp"

#include <algorithm>
#include <cmath>

#include "llmft/base/error.hpp"
#include "llmft/base/rng.hpp"

namespace llmft {
namespace {

enum Stream : uint64_t { kResample = 0x626f6f74, kSwap = 0x73776170 };

void add_row(const Metric& m, int64_t row, std::vector<double>& sums) {
  for (int64_t c = 0; c < m.width; ++c)
    sums[static_cast<size_t>(c)] += m.samples[static_cast<size_t>(row * m.width + c)];
}

double total_score(const Metric& m) {
  std::vector<double> sums(static_cast<size_t>(m.width));
  for (int64_t i = 0; i < m.size(); ++i) add_row(m, i, sums);
  return m.score(sums);
}

// Between the two nearest values, as numpy's default.
double percentile(const std::vector<double>& sorted, double share) {
  double at = share * static_cast<double>(sorted.size() - 1);
  auto below = static_cast<size_t>(at);
  size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

// value: on the samples; draw(i): on resample i, a function that gives sample numbers.
template <class Value>
Interval interval(double value, int64_t samples, int64_t resamples, uint64_t seed, Value&& of) {
  std::vector<double> values;
  auto n = static_cast<uint64_t>(samples);
  CounterRng rng(seed, kResample);
  for (uint64_t r = 0; r < static_cast<uint64_t>(resamples); ++r)
    values.push_back(of([&](uint64_t i) { return static_cast<int64_t>(rng.below(r * n + i, n)); }));
  if (values.empty()) return {value, value, value};
  std::sort(values.begin(), values.end());
  return {value, percentile(values, 0.025), percentile(values, 0.975)};
}

template <class Draw>
double resampled(const Metric& m, Draw&& draw) {
  std::vector<double> sums(static_cast<size_t>(m.width));
  for (uint64_t i = 0; i < static_cast<uint64_t>(m.size()); ++i) add_row(m, draw(i), sums);
  return m.score(sums);
}

}  // namespace

Interval bootstrap(const Metric& metric, int64_t resamples, uint64_t seed) {
  check(metric.size() > 0, "bootstrap of nothing");
  return interval(total_score(metric), metric.size(), resamples, seed,
                  [&](auto&& draw) { return resampled(metric, draw); });
}

Paired compare(const Metric& a, const Metric& b, int64_t trials, uint64_t seed) {
  check(a.size() > 0 && a.size() == b.size() && a.width == b.width, "compared metrics have other samples");
  Paired result;
  double observed = total_score(b) - total_score(a);
  result.difference = interval(observed, a.size(), trials, seed,
                               [&](auto&& draw) { return resampled(b, draw) - resampled(a, draw); });
  CounterRng rng(seed, kSwap);
  auto n = static_cast<uint64_t>(a.size());
  int64_t hits = 0;
  std::vector<double> left(static_cast<size_t>(a.width)), right(left.size());
  for (uint64_t t = 0; t < static_cast<uint64_t>(trials); ++t) {
    std::fill(left.begin(), left.end(), 0.0);
    std::fill(right.begin(), right.end(), 0.0);
    for (uint64_t i = 0; i < n; ++i) {
      bool swapped = (rng.bits(t * n + i) & 1) != 0;
      add_row(swapped ? b : a, static_cast<int64_t>(i), left);
      add_row(swapped ? a : b, static_cast<int64_t>(i), right);
    }
    // a hair of room: the same sum in another order is no smaller difference
    if (std::abs(b.score(right) - a.score(left)) >= std::abs(observed) * (1 - 1e-12)) ++hits;
  }
  result.p = static_cast<double>(hits + 1) / static_cast<double>(trials + 1);
  return result;
}

}  // namespace llmft
