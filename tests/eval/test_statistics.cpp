#include <cmath>

#include <doctest/doctest.h>

#include "llmft/base/rng.hpp"
#include "llmft/eval/statistics.hpp"

using namespace llmft;

namespace {

double mean(std::span<const double> sums) {
  return sums[0] / sums[1];
}

// n values around `centre` with standard deviation 1.
Metric normals(int64_t n, double centre, uint64_t stream) {
  Metric m{.width = 2, .samples = {}, .score = mean};
  CounterRng rng(1, stream);
  for (uint64_t i = 0; i < static_cast<uint64_t>(n); ++i) {
    m.samples.push_back(centre + rng.normal(i));
    m.samples.push_back(1);
  }
  return m;
}

}  // namespace

TEST_CASE("the interval of a mean is as wide as theory has it, and covers as often") {
  Interval i = bootstrap(normals(400, 3, 1), 2000, 1);
  CHECK(i.low < i.value);
  CHECK(i.value < i.high);
  CHECK(i.high - i.low == doctest::Approx(2 * 1.96 / 20).epsilon(0.1));
  int covered = 0;
  for (uint64_t s = 0; s < 100; ++s) {
    Interval each = bootstrap(normals(50, 3, s), 300, s);
    covered += each.low <= 3 && 3 <= each.high;
  }
  CHECK(covered >= 86);  // 95 expected, a little less for 50 samples
  CHECK(covered < 100);
  Interval one = bootstrap(normals(1, 3, 1), 100, 1);
  CHECK(one.low == one.high);
}

TEST_CASE("the paired test finds a difference that is there and none where there is none") {
  Metric a = normals(200, 0, 1), b = a, far = normals(200, 1, 2);
  Paired same = compare(a, b, 500, 1);
  CHECK(same.p == 1);
  CHECK(same.difference.low == 0);
  CHECK(same.difference.high == 0);
  for (size_t i = 0; i < b.samples.size(); i += 2) b.samples[i] += 0.05 + 0.1 * CounterRng(4, 4).normal(i);
  Paired small = compare(a, b, 500, 1);  // far smaller than the spread of either, but the same samples
  CHECK(small.p < 0.01);
  CHECK(small.difference.low > 0);
  CHECK(compare(a, far, 500, 1).p < 0.01);
  // under no difference p is uniform
  int below = 0;
  for (uint64_t s = 0; s < 200; ++s)
    below += compare(normals(30, 0, 1000 + s), normals(30, 0, 2000 + s), 200, s).p < 0.1;
  CHECK(below >= 8);
  CHECK(below <= 35);
}
