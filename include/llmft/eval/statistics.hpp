// How sure a score of a whole corpus is. A metric is given as what each sample adds to its sums, and the
// score as a function of the sums; so every metric, also BLEU and perplexity, which are no means, is
// resampled the same way.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace llmft {

struct Metric {
  int64_t width = 1;                                     // of a sample's row
  std::vector<double> samples;                           // [n, width]
  std::function<double(std::span<const double>)> score;  // of sums over samples

  int64_t size() const { return static_cast<int64_t>(samples.size()) / width; }
};

struct Interval {
  double value = 0;  // on the samples themselves
  double low = 0;    // 95 %, percentiles of bootstrap resamples (Efron 1979)
  double high = 0;
};
Interval bootstrap(const Metric& metric, int64_t resamples, uint64_t seed);

struct Paired {
  Interval difference;  // b - a, both resampled together
  // Two-sided approximate randomization (Noreen 1989; Riezler, Maxwell 2005): how often a difference at least
  // as large comes from swapping a and b on each sample by the toss of a coin. (hits + 1) / (trials + 1).
  double p = 1;
};
// Same samples in the same order, at least one.
Paired compare(const Metric& a, const Metric& b, int64_t trials, uint64_t seed);

}  // namespace llmft
