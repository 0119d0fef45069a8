#pragma once

#include "llmft/parallel/strategy.hpp"

namespace llmft {

std::unique_ptr<ParamStore> make_replicated_store(const StoreContext& context);
std::unique_ptr<ParamStore> make_sharded_store(const StoreContext& context);

}  // namespace llmft
