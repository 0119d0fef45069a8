// -log p of the supervised tokens of samples, by the base model and with the adapter.
#pragma once

#include <cstdint>
#include <vector>

#include "llmft/data/shard_set.hpp"
#include "llmft/generate/loaded_model.hpp"

namespace llmft {

struct SampleLoss {
  double base = 0;  // nats, summed over the sample's supervised tokens
  double adapted = 0;
};

// Samples are packed without padding; a pack's weights are read once for each of the two. Logits exist only
// for a piece of a pack's supervised tokens. pack_tokens: at least the longest sample's.
std::vector<SampleLoss> sample_losses(LoadedModel& model, const ShardSet& shards,
                                      const std::vector<uint64_t>& samples, int64_t pack_tokens);

}  // namespace llmft
