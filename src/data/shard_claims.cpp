#include "shard_claims.hpp"

#include <algorithm>

namespace llmft {
namespace {

// In the order of claiming.
std::vector<std::vector<uint64_t>> units_of(const Sources& sources, uint64_t rows_per_shard,
                                            const std::vector<uint64_t>& to_do) {
  constexpr size_t kNone = ~size_t{0};
  auto file_of = [&, piece = size_t{0}, end = uint64_t{0}](uint64_t row) mutable {
    // Rows come in ascending order; end: of the pieces before `piece`.
    while (row >= end) end += sources.pieces[piece++].rows.value();
    size_t file = sources.pieces[piece - 1].file;
    SourceFormat format = sources.files[file].format;
    return format == SourceFormat::jsonl_gzip || format == SourceFormat::jsonl_zstd ? file : kNone;
  };
  std::vector<std::vector<uint64_t>> together;
  std::vector<std::vector<uint64_t>> single;
  size_t last = kNone;
  for (uint64_t shard : to_do) {
    size_t file = file_of(shard * rows_per_shard);
    if (file == kNone) {
      single.push_back({shard});
    } else if (file == last) {
      together.back().push_back(shard);
    } else {
      together.push_back({shard});
    }
    last = file;
  }
  std::stable_sort(together.begin(), together.end(), [](auto& a, auto& b) { return a.size() > b.size(); });
  together.insert(together.end(), single.begin(), single.end());
  return together;
}

}  // namespace

ShardClaims::ShardClaims(const Process& process, const Sources& sources, uint64_t rows_per_shard,
                         const std::vector<uint64_t>& to_do)
    : units_(units_of(sources, rows_per_shard, to_do)),
      rank_(static_cast<size_t>(process.rank())),
      claimed_(process, static_cast<size_t>(process.size()) + 1) {
  auto ranks = static_cast<size_t>(process.size());
  auto several = static_cast<size_t>(
      std::find_if(units_.begin(), units_.end(), [](auto& unit) { return unit.size() == 1; }) -
      units_.begin());
  ends_.push_back(several);
  for (size_t r = 0; r < ranks; ++r) ends_.push_back(several + (units_.size() - several) * (r + 1) / ranks);
}

std::vector<uint64_t> ShardClaims::next() {
  size_t ranks = ends_.size() - 1;
  for (; at_ <= ranks; ++at_) {
    size_t stretch = at_ == 0 ? 0 : 1 + (rank_ + at_ - 1) % ranks;
    size_t begin = stretch == 0 ? 0 : ends_[stretch - 1];
    if (begin == ends_[stretch]) continue;
    size_t unit = begin + claimed_.next(stretch);
    if (unit < ends_[stretch]) return units_[unit];
  }
  return {};
}

}  // namespace llmft
