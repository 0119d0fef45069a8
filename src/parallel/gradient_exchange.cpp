#include "gradient_exchange.hpp"

#include <algorithm>
#include <map>

namespace llmft {
namespace {

// More than this gains nothing by going together.
constexpr size_t kGroupBytes = size_t{32} << 20;
constexpr size_t kGroupsUnderWay = 1;  // while the next blocks' gradients are computed

}  // namespace

void GradientExchange::add_block(const ShardMap& map, int kind) {
  State s;
  s.map = map;
  s.kind = kind;
  s.slice = Buffer(ops_.device(), static_cast<size_t>(map.shard) * sizeof(float), MemoryPart::gradients);
  ops_.device().zero(s.slice.data(), s.slice.bytes());
  int64_t copies = copies_ == nullptr ? 1 : copies_->size();
  check(reduction_ == Reduction::fast || map.shard % copies == 0, "more copies than a slice has pieces");
  s.tree = std::make_unique<GradientTree>(ops_, map.shard / copies);
  blocks_.push_back(std::move(s));
}

// Groups are held whole while they wait and travel, which must not take what sharding saves.
void GradientExchange::plan(Amount amount) {
  size_t total = 0;
  std::map<int, int> count;
  for (int b = 0; b < static_cast<int>(blocks_.size()); ++b) {
    total += whole_bytes(b);
    ++count[at(b).kind];
  }
  bool at_once = amount == Amount::adapters && reduction_ == Reduction::fast;
  group_bytes_ = std::min(kGroupBytes, at_once ? total : amount == Amount::adapters ? total / 4 : total / 16);
  for (int b = 0; b < static_cast<int>(blocks_.size()); ++b) {
    if (whole_bytes(b) == 0) continue;
    auto in_group = static_cast<int>(std::min<size_t>(group_bytes_ / whole_bytes(b) + 1, 1 << 20));
    at(b).turns = std::min(count[at(b).kind], 2 * in_group);
  }
}

size_t GradientExchange::whole_bytes(int block) const {
  return blocks_[static_cast<size_t>(block)].slice.bytes() * static_cast<size_t>(shards_.size());
}

void GradientExchange::clear() {
  for (State& s : blocks_) {
    s.fresh = true;
    s.tree->clear();
  }
}

void GradientExchange::open(int block) {
  State& s = at(block);
  if (s.opened.bytes() != 0) send();  // the last micro-batch's, which have waited for company
  s.opened = pool_.take(whole_bytes(block), s.kind, s.turns);
}

void GradientExchange::ready(int block) {
  waiting_.push_back(block);
  waiting_bytes_ += whole_bytes(block);
  if (waiting_bytes_ >= group_bytes_) send();
}

void GradientExchange::send() {
  if (waiting_.empty()) return;
  Group group;
  for (int block : waiting_) {
    State& s = at(block);
    Part part{block, {}};
    if (reduction_ == Reduction::tree)
      part.arriving = pool_.take(whole_bytes(block));
    else if (!s.fresh)
      part.arriving = pool_.take(s.slice.bytes());
    group.parts.push_back(std::move(part));
  }
  const char* name = reduction_ == Reduction::tree ? "all_to_all" : "reduce_scatter";
  group.sum = shards_.start_together(name, waiting_bytes_, [&] {
    for (Part& part : group.parts) {
      State& s = at(part.block);
      if (reduction_ == Reduction::tree)
        shards_.start_all_to_all(flat(s.opened), flat(part.arriving));
      else
        shards_.start_reduce_scatter(flat(s.opened),
                                     flat(part.arriving.bytes() == 0 ? s.slice : part.arriving));
    }
  });
  for (Part& part : group.parts) {
    State& s = at(part.block);
    s.fresh = false;
    pool_.give(std::move(s.opened), s.kind, group.sum);
    s.opened = Buffer();
  }
  waiting_.clear();
  waiting_bytes_ = 0;
  travelling_.push_back(std::move(group));
  while (travelling_.size() > kGroupsUnderWay) settle();
}

// The oldest group: waits for it and adds it up.
void GradientExchange::settle() {
  Group group = std::move(travelling_.front());
  travelling_.pop_front();
  shards_.wait(group.sum);
  for (Part& part : group.parts) {
    State& s = at(part.block);
    if (reduction_ == Reduction::tree) {
      Tensor mine = tree_sum(ops_, flat(part.arriving), shards_.size());
      if (copies_ != nullptr) {
        Buffer of_groups = pool_.take(s.slice.bytes());
        copies_->all_to_all(mine, flat(of_groups));
        s.tree->add(tree_sum(ops_, flat(of_groups), copies_->size()));
        pool_.give(std::move(of_groups));
      } else {
        s.tree->add(mine);
      }
    } else if (part.arriving.bytes() != 0) {
      ops_.add(flat(part.arriving), flat(s.slice));
    }
    pool_.give(std::move(part.arriving));
  }
}

void GradientExchange::finish() {
  send();
  for (State& s : blocks_)
    if (s.map.numel != 0 && s.fresh && reduction_ == Reduction::fast)
      ops_.device().zero(s.slice.data(), s.slice.bytes());
  if (reduction_ == Reduction::fast && copies_ == nullptr) return;
  settle_all();
  sum_over_copies();
}

// tree: of a slice each copy's rank has summed its piece.
void GradientExchange::sum_over_copies() {
  size_t bytes = 0;
  for (State& s : blocks_) {
    if (s.map.numel == 0) continue;
    bytes += s.slice.bytes();
    if (reduction_ == Reduction::fast) continue;
    Tensor sum = s.tree->total();
    Tensor mine =
        flat(s.slice).col_range((copies_ == nullptr ? 0 : copies_->rank()) * sum.numel(), sum.numel());
    ops_.device().copy(mine.data, sum.data, sum.bytes());
  }
  if (copies_ == nullptr) return;
  bool fast = reduction_ == Reduction::fast;
  copies_->wait(copies_->start_together(fast ? "all_reduce" : "all_gather", bytes, [&] {
    for (State& s : blocks_) {
      if (s.map.numel == 0) continue;
      Tensor whole = flat(s.slice);
      int64_t piece = whole.numel() / copies_->size();
      if (fast)
        copies_->start_all_reduce(whole);
      else
        copies_->start_all_gather(whole.col_range(copies_->rank() * piece, piece), whole);
    }
  }));
}

Tensor GradientExchange::slice(int block) {
  auto travels = [&](const Group& group) {
    return std::any_of(group.parts.begin(), group.parts.end(),
                       [&](const Part& p) { return p.block == block; });
  };
  while (std::any_of(travelling_.begin(), travelling_.end(), travels)) settle();
  return flat(at(block).slice);
}

}  // namespace llmft
