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
// gradients and optimizer state. hsdp: fsdp among the ranks of a group, ddp between the groups.
enum class Strategy { none, ddp, fsdp, hsdp };
inline constexpr std::pair<const char*, Strategy> kStrategyNames[] = {
    {"none", Strategy::none}, {"ddp", Strategy::ddp}, {"fsdp", Strategy::fsdp}, {"hsdp", Strategy::hsdp}};
const char* name_of(Strategy strategy);

// Under fsdp and hsdp, by PyTorch's names. full_shard (ZeRO-3): a layer's weights are whole only around their
// use. shard_grad_op (ZeRO-2): weights are whole all the time; their gradients and what the optimizer needs
// are not.
enum class FsdpMode { full_shard, shard_grad_op };
inline constexpr std::pair<const char*, FsdpMode> kFsdpModeNames[] = {
    {"full_shard", FsdpMode::full_shard}, {"shard_grad_op", FsdpMode::shard_grad_op}};

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
  FsdpMode mode = FsdpMode::full_shard;
  int group = 0;  // hsdp: ranks that share one copy of the model, from hsdp_group()
};

// UserError where the strategy or the reduction does not fit the number of ranks; needs nothing but them, so
// that a run can be refused before anything is read or written.
void check_strategy(Strategy strategy, Reduction reduction, int ranks);

// Collective. wanted: neighbours in rank order that share one copy; 0: the ranks of a node. UserError where
// that does not divide the ranks, or nodes are unequal or their ranks not in a row.
int hsdp_group(const Process& process, int64_t wanted);

// Checked as check_strategy does. Collective.
std::unique_ptr<ParamStore> make_param_store(Strategy strategy, const StoreContext& context);

// The block of elements whose squares are summed together in the gradient norm: a function of the block's
// size alone, so that the norm has the same bits for any number of ranks. Shards are multiples of it.
int64_t norm_chunk(int64_t trainable_numel);

}  // namespace llmft
