// How ranks share the work on one model, and the ParamStore that does it.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "llmft/comm/comm.hpp"
#include "llmft/model/param_store.hpp"
#include "llmft/ops/ops.hpp"
#include "llmft/precision/recipe.hpp"

namespace llmft {

// none: one rank. ddp: everything on every rank, gradients summed. fsdp: each rank keeps 1/n of parameters,
// gradients and optimizer state and gathers a block when it is used (ZeRO-3; full_shard).
enum class Strategy { none, ddp, fsdp, hsdp };
inline constexpr std::pair<const char*, Strategy> kStrategyNames[] = {
    {"none", Strategy::none}, {"ddp", Strategy::ddp}, {"fsdp", Strategy::fsdp}, {"hsdp", Strategy::hsdp}};
const char* name_of(Strategy strategy);

// fast: micro-batches add up in place, ranks are summed by the library; repeatable for one number of ranks.
// tree: gradients are summed over one binary tree over the global micro-batch index, whatever the number of
// ranks (a power of two) and the strategy: micro-step j of rank r is leaf j * ranks + r.
enum class Reduction { fast, tree };

struct StoreContext {
  const LlamaTensors& tensors;
  const Recipe& recipe;
  Ops& ops;
  Comm& comm;
  Reduction reduction;
};

// UserError where the strategy or the reduction does not fit the number of ranks; needs nothing but them, so
// that a run can be refused before anything is read or written.
void check_strategy(Strategy strategy, Reduction reduction, int ranks);

// Checked as above.
std::unique_ptr<ParamStore> make_param_store(Strategy strategy, const StoreContext& context);

// The block of elements whose squares are summed together in the gradient norm: a function of the block's
// size alone, so that the norm has the same bits for any number of ranks. Shards are multiples of it.
int64_t norm_chunk(int64_t trainable_numel);

}  // namespace llmft
