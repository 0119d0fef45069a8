#include <algorithm>
#include <unordered_map>

#include <doctest/doctest.h>

#include "llmft/tokenizer/merges.hpp"
#include "support.hpp"

using namespace llmft;
using namespace llmft::test;

namespace {

// The definition, word for word: quadratic, with strings.
std::vector<std::string> merge_by_definition(const std::string& piece,
                                             const std::map<std::string, uint32_t>& ranks) {
  std::vector<std::string> parts;
  for (char c : piece) parts.emplace_back(1, c);
  while (true) {
    size_t best = parts.size();
    uint32_t lowest = ~uint32_t{0};
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      auto rank = ranks.find(parts[i] + parts[i + 1]);
      if (rank != ranks.end() && rank->second < lowest) lowest = rank->second, best = i;
    }
    if (best == parts.size()) return parts;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

struct Vocabulary {
  std::vector<std::string> bytes;
  std::map<std::string, uint32_t> ranks;
  std::vector<Merge> merges;
  std::vector<uint32_t> merge_ranks;

  // All bytes, then `words` in random order: not every one can be reached by merging.
  explicit Vocabulary(Random& random, size_t words) {
    for (int b = 0; b < 256; ++b) add(std::string(1, static_cast<char>(b)));
    while (bytes.size() < 256 + words) {
      std::string word;
      for (size_t n = 2 + random() % 5; n > 0; --n) word += "abc"[random() % 3];
      if (!ranks.contains(word)) add(word);
    }
    for (const auto& [word, rank] : ranks)
      for (size_t cut = 1; cut < word.size(); ++cut) {
        auto left = ranks.find(word.substr(0, cut)), right = ranks.find(word.substr(cut));
        if (left == ranks.end() || right == ranks.end()) continue;
        merges.push_back({left->second, right->second, rank});
        merge_ranks.push_back(rank);
      }
  }
  void add(const std::string& word) {
    ranks[word] = static_cast<uint32_t>(bytes.size());
    bytes.push_back(word);
  }
  MergeTable table() const {
    std::array<TokenId, 256> ids;
    for (size_t b = 0; b < 256; ++b) ids[b] = static_cast<TokenId>(b);
    return {ids, merges, merge_ranks};
  }
};

}  // namespace

TEST_CASE("merging follows its definition, in short pieces and in long ones") {
  Random random(11);
  for (int round = 0; round < 20; ++round) {
    const Vocabulary vocabulary(random, 1 + random() % 120);
    const MergeTable table = vocabulary.table();
    MergeTable::Scratch scratch;
    for (int i = 0; i < 150; ++i) {
      std::string piece;
      const size_t size = i % 3 == 0 ? 60 + random() % 10 : 1 + random() % 150;
      while (piece.size() < size) piece += random() % 20 == 0 ? "xyz"[random() % 3] : "abc"[random() % 3];
      std::vector<TokenId> ids;
      table.encode(piece, ids, scratch);
      std::vector<std::string> parts;
      for (TokenId id : ids) parts.push_back(vocabulary.bytes[id]);
      REQUIRE(parts == merge_by_definition(piece, vocabulary.ranks));
    }
  }
}

TEST_CASE("of pairs of the same rank the leftmost is merged first") {
  std::array<TokenId, 256> ids;
  for (size_t b = 0; b < 256; ++b) ids[b] = static_cast<TokenId>(b);
  const std::vector<Merge> merges{{'a', 'a', 256}, {256, 256, 257}};
  const std::vector<uint32_t> ranks{0, 1};
  const MergeTable table(ids, merges, ranks);
  MergeTable::Scratch scratch;
  std::vector<TokenId> out;
  table.encode("aaaaa", out, scratch);
  CHECK(out == std::vector<TokenId>{257, 'a'});
  out.clear();
  table.encode(std::string(1001, 'a'), out, scratch);
  CHECK(out.size() == 251);
  CHECK(out.back() == 'a');
}

TEST_CASE("of a pair listed twice the first merge counts") {
  std::array<TokenId, 256> ids;
  for (size_t b = 0; b < 256; ++b) ids[b] = static_cast<TokenId>(b);
  const std::vector<Merge> merges{{'a', 'b', 256}, {'a', 'b', 257}};
  const std::vector<uint32_t> ranks{0, 1};
  MergeTable::Scratch scratch;
  std::vector<TokenId> out;
  MergeTable(ids, merges, ranks).encode("ab", out, scratch);
  CHECK(out == std::vector<TokenId>{256});
}
