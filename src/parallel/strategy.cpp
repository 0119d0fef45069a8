#include "llmft/parallel/strategy.hpp"

#include <algorithm>
#include <bit>

#include "stores.hpp"

namespace llmft {

const char* name_of(Strategy strategy) {
  for (auto& [name, value] : kStrategyNames)
    if (value == strategy) return name;
  return "?";
}

int64_t norm_chunk(int64_t trainable_numel) {
  auto target = static_cast<uint64_t>(std::max<int64_t>(trainable_numel / 1024, 1));
  return static_cast<int64_t>(std::clamp<uint64_t>(std::bit_ceil(target), 64, 65536));
}

void check_strategy(Strategy strategy, Reduction reduction, int ranks) {
  if (reduction == Reduction::tree && (ranks & (ranks - 1)) != 0)
    user_error(
        "--deterministic: {} ranks (the summation tree needs a power of two); use 1, 2, 4, 8, ... ranks",
        ranks);
  if (strategy == Strategy::none && ranks > 1)
    user_error("--strategy none: is for one rank, and {} were started; use --strategy ddp, fsdp or hsdp",
               ranks);
}

int hsdp_group(const Process& process, int64_t wanted) {
  int ranks = process.size();
  if (wanted > 0) {
    if (ranks % wanted != 0)
      user_error("--hsdp-group {}: does not divide the {} ranks; give a divisor, or start a multiple of it",
                 wanted, ranks);
    return static_cast<int>(wanted);
  }
  uint64_t mine[] = {static_cast<uint64_t>(process.node_first_rank()),
                     static_cast<uint64_t>(process.local_size()),
                     static_cast<uint64_t>(process.local_rank())};
  std::vector<uint64_t> all = process.all_gather(mine);
  uint64_t each = all[1];
  for (uint64_t r = 0; r < static_cast<uint64_t>(ranks); ++r) {
    uint64_t first = all[3 * r], size = all[3 * r + 1], local = all[3 * r + 2];
    if (size != each)
      user_error(
          "--strategy hsdp: rank {}'s node has {} ranks and rank 0's has {}; start the same number on every "
          "node "
          "(--ntasks-per-node), or give --hsdp-group",
          r, size, each);
    if (first + local != r)
      user_error(
          "--strategy hsdp: the ranks of a node are not in a row (rank {} shares its node with rank {}); "
          "start them "
          "with --distribution=block, or give --hsdp-group",
          r, first);
  }
  return static_cast<int>(each);
}

// One rank, or a group of one, has nothing to share: every copy is whole.
std::unique_ptr<ParamStore> make_param_store(Strategy strategy, const StoreContext& context) {
  int ranks = context.comm.size();
  check_strategy(strategy, context.reduction, ranks);
  check(strategy != Strategy::hsdp || (context.group > 0 && ranks % context.group == 0),
        "hsdp without a group");
  bool replicated = strategy == Strategy::none || strategy == Strategy::ddp || ranks == 1 ||
                    (strategy == Strategy::hsdp && context.group == 1);
  if (replicated) return make_replicated_store(context);
  return make_sharded_store(context, strategy == Strategy::hsdp ? context.group : ranks);
}

}  // namespace llmft
