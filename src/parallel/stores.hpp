#pragma once

#include "llmft/parallel/strategy.hpp"

namespace llmft {

std::unique_ptr<ParamStore> make_replicated_store(const StoreContext& context);
// group: neighbours in rank order that share one copy; at least two, a divisor of the ranks.
std::unique_ptr<ParamStore> make_sharded_store(const StoreContext& context, int group);

}  // namespace llmft
