// Packs dealt out to ranks.
#include <algorithm>
#include <numeric>

#include <doctest/doctest.h>

#include "../../src/train/batches.hpp"
#include "fixture.hpp"
#include "llmft/base/rng.hpp"

using namespace llmft;

namespace {

// Longest first.
std::vector<double> costs(size_t count, uint64_t seed) {
  CounterRng rng(3, seed);
  std::vector<double> out;
  for (size_t i = 0; i < count; ++i) out.push_back(100 + 20 * rng.uniform(i));
  std::sort(out.rbegin(), out.rend());
  return out;
}

double imbalance(const std::vector<double>& cost, const std::vector<size_t>& number, size_t ranks) {
  std::vector<double> load(ranks);
  for (size_t i = 0; i < number.size(); ++i) load[i % ranks] += cost[number[i]];
  return *std::max_element(load.begin(), load.end()) * static_cast<double>(ranks) /
             std::accumulate(load.begin(), load.end(), 0.0) -
         1;
}

}  // namespace

TEST_CASE("ordered by cost alone, packs are where they are for any number of ranks") {
  std::vector<size_t> identity(16);
  std::iota(identity.begin(), identity.end(), size_t{0});
  for (int ranks : {1, 2, 4, 16}) CHECK(share_out(costs(16, 1), ranks, PackOrder::by_cost) == identity);
}

TEST_CASE("balanced, every micro-step has its neighbours by cost, and the ranks' sums even out") {
  for (size_t ranks : {2u, 4u, 8u}) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      std::vector<double> cost = costs(8 * ranks, seed);
      std::vector<size_t> number = share_out(cost, static_cast<int>(ranks), PackOrder::balanced);
      for (size_t first = 0; first < number.size(); first += ranks) {
        std::vector<size_t> group(number.begin() + static_cast<std::ptrdiff_t>(first),
                                  number.begin() + static_cast<std::ptrdiff_t>(first + ranks));
        std::sort(group.begin(), group.end());
        for (size_t k = 0; k < ranks; ++k) CHECK(group[k] == first + k);
      }
      double by_cost = imbalance(cost, share_out(cost, static_cast<int>(ranks), PackOrder::by_cost), ranks);
      double balanced = imbalance(cost, number, ranks);
      CHECK(balanced < 0.005);
      CHECK(balanced < by_cost);
    }
  }
  CHECK(share_out(costs(5, 0), 1, PackOrder::balanced) == std::vector<size_t>{0, 1, 2, 3, 4});
}

TEST_CASE("a pack's cost follows the operations of the model") {
  LlamaConfig config = load_llama_config(kGolden / "parity_tied/model");
  LlamaTensors lora(config, {4, 8, false, {"q_proj", "v_proj", "o_proj"}}), full(config, {});
  PackCost l = pack_cost(lora), f = pack_cost(full);
  CHECK(f.token > 1.3 * l.token);
  CHECK(f.token < 1.6 * l.token);
  CHECK(f.loss_row == doctest::Approx(1.5 * l.loss_row));
  CHECK(f.squared_length == l.squared_length);
  CHECK(l.of({10, 4, 100}) == doctest::Approx(10 * l.token + 4 * l.loss_row + 100 * l.squared_length));
}
