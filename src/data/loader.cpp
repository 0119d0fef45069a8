#include "llmft/data/loader.hpp"

#include <algorithm>
#include <numeric>
#include <set>
#include <span>

#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/rng.hpp"

namespace llmft {
namespace {

// Streams of the counter-based generator: one a use and epoch.
enum Stream : uint64_t { sample_order = 0, pack_order = 1, streams = 2 };

void shuffle(std::span<uint32_t> values, const CounterRng& rng, uint64_t first_draw) {
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[rng.below(first_draw + i, i)]);
}

// Best fit, longest first: packs of the window as lists of samples. Samples of a pack keep the window's
// order.
std::vector<std::vector<uint32_t>> best_fit(std::span<const uint32_t> window, const ShardSet& shards,
                                            uint64_t pack_tokens) {
  std::vector<uint32_t> by_length(window.size());
  std::iota(by_length.begin(), by_length.end(), 0u);
  std::stable_sort(by_length.begin(), by_length.end(), [&](uint32_t a, uint32_t b) {
    return shards.length(window[a]) > shards.length(window[b]);
  });
  std::vector<std::vector<uint32_t>> packs;
  std::set<std::pair<uint64_t, size_t>> room;  // tokens free, pack
  for (uint32_t at : by_length) {
    uint64_t length = shards.length(window[at]);
    auto fit = room.lower_bound({length, 0});
    size_t pack = packs.size();
    uint64_t free = pack_tokens;
    if (fit == room.end()) {
      packs.emplace_back();
    } else {
      free = fit->first;
      pack = fit->second;
      room.erase(fit);
    }
    packs[pack].push_back(at);
    room.insert({free - length, pack});
  }
  for (auto& pack : packs) {
    std::sort(pack.begin(), pack.end());
    for (uint32_t& at : pack) at = window[at];
  }
  return packs;
}

}  // namespace

Loader::Loader(const ShardSet& shards, LoaderOptions options) : shards_(shards), options_(options) {
  check(options_.pack_tokens > 0, "pack_tokens must be positive");
  check(shards.size() < UINT32_MAX, "more samples than the plan can number");
  uint64_t longest = 0;
  for (uint64_t i = 0; i < shards.size(); ++i) {
    uint64_t length = shards.length(i);
    longest = std::max(longest, length);
    if (length > static_cast<uint64_t>(options_.pack_tokens)) {
      ++too_long_;
      continue;
    }
    usable_.push_back(static_cast<uint32_t>(i));
    tokens_ += length;
    loss_tokens_ += shards.loss_tokens(i);
  }
  std::string folder = shards.folder().string();
  if (shards.size() == 0)
    user_error("{}: no samples in these shards; check what 'llmft preprocess' kept", folder);
  if (usable_.empty())
    user_error("{}: every sample is longer than {} tokens; raise the number of tokens per sequence to {}",
               folder, options_.pack_tokens, longest);
  if (too_long_ > 0)
    log::info("{}: {} of {} samples are longer than {} tokens and are left out (the longest has {})", folder,
              too_long_, shards.size(), options_.pack_tokens, longest);
}

Loader::~Loader() = default;

Loader::Plan Loader::make_plan(uint64_t epoch) const {
  auto capacity = static_cast<uint64_t>(options_.pack_tokens);
  Plan plan{epoch, {}, {0}};
  plan.samples.reserve(usable_.size());
  auto close_pack = [&] { plan.starts.push_back(static_cast<uint32_t>(plan.samples.size())); };
  if (options_.order == LoadOrder::sequential) {
    uint64_t used = 0;
    for (uint32_t sample : usable_) {
      uint64_t length = shards_.length(sample);
      if (used + length > capacity) {
        close_pack();
        used = 0;
      }
      plan.samples.push_back(sample);
      used += length;
    }
    close_pack();
    return plan;
  }
  CounterRng order_rng(options_.seed, epoch * Stream::streams + Stream::sample_order);
  CounterRng pack_rng(options_.seed, epoch * Stream::streams + Stream::pack_order);
  std::vector<uint32_t> order = usable_;
  shuffle(order, order_rng, 0);
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin;
    for (uint64_t tokens = 0; end < order.size() && tokens < kWindowPacks * capacity; ++end)
      tokens += shards_.length(order[end]);
    std::vector<std::vector<uint32_t>> packs =
        best_fit(std::span(order).subspan(begin, end - begin), shards_, capacity);
    std::vector<uint32_t> pack_order(packs.size());
    std::iota(pack_order.begin(), pack_order.end(), 0u);
    shuffle(pack_order, pack_rng, begin);
    for (uint32_t pack : pack_order) {
      plan.samples.insert(plan.samples.end(), packs[pack].begin(), packs[pack].end());
      close_pack();
    }
    begin = end;
  }
  return plan;
}

std::shared_ptr<const Loader::Plan> Loader::plan_of(uint64_t epoch) const {
  if (options_.order == LoadOrder::sequential) epoch = 0;  // every epoch is the same
  std::lock_guard lock(mutex_);
  for (const auto& plan : plans_)
    if (plan->epoch == epoch) return plan;
  if (plans_.size() == 2) plans_.erase(plans_.begin());
  plans_.push_back(std::make_shared<const Plan>(make_plan(epoch)));
  return plans_.back();
}

uint64_t Loader::packs_in_epoch(uint64_t epoch) const {
  return plan_of(epoch)->starts.size() - 1;
}

uint64_t Loader::loss_tokens(uint64_t epoch, uint64_t index) const {
  std::shared_ptr<const Plan> plan = plan_of(epoch);
  check(index + 1 < plan->starts.size(), "no such pack in this epoch");
  uint64_t sum = 0;
  for (uint32_t i = plan->starts[index]; i < plan->starts[index + 1]; ++i)
    sum += shards_.loss_tokens(plan->samples[i]);
  return sum;
}

PackShape Loader::shape(uint64_t epoch, uint64_t index) const {
  std::shared_ptr<const Plan> plan = plan_of(epoch);
  check(index + 1 < plan->starts.size(), "no such pack in this epoch");
  PackShape shape;
  for (uint32_t i = plan->starts[index]; i < plan->starts[index + 1]; ++i) {
    auto length = static_cast<int64_t>(shards_.length(plan->samples[i]));
    shape.tokens += length;
    shape.loss_tokens += static_cast<int64_t>(shards_.loss_tokens(plan->samples[i]));
    shape.sum_squared_lengths += static_cast<double>(length * length);
  }
  return shape;
}

Pack Loader::pack(uint64_t epoch, uint64_t index) const {
  std::shared_ptr<const Plan> plan = plan_of(epoch);
  check(index + 1 < plan->starts.size(), "no such pack in this epoch");
  Pack pack;
  pack.cu_seqlens.push_back(0);
  for (uint32_t i = plan->starts[index]; i < plan->starts[index + 1]; ++i) {
    uint64_t sample = plan->samples[i];
    auto begin = static_cast<int32_t>(pack.tokens.size());
    auto length = static_cast<int32_t>(shards_.length(sample));
    shards_.append_tokens(sample, pack.tokens);
    for (int32_t p = 0; p < length; ++p) pack.positions.push_back(p);
    for (int32_t p = static_cast<int32_t>(shards_.loss_start(sample)) - 1; p <= length - 2; ++p) {
      pack.loss_rows.push_back(begin + p);
      pack.targets.push_back(pack.tokens[static_cast<size_t>(begin + p) + 1]);
    }
    pack.cu_seqlens.push_back(begin + length);
    pack.rows.push_back(shards_.row(sample));
  }
  return pack;
}

}  // namespace llmft
