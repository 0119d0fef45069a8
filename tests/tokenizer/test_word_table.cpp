#include <map>

#include <doctest/doctest.h>

#include "llmft/tokenizer/word_table.hpp"
#include "support.hpp"

using namespace llmft;
using namespace llmft::test;

namespace {

WordKey key_of(const std::string& word) {
  return word.size() <= WordTable::kMaxShort ? WordTable::short_key(word.data(), word.size(), word.size())
                                             : WordTable::long_key(word);
}

void insert(WordTable& table, const std::string& word, const std::vector<TokenId>& ids) {
  table.insert(key_of(word), key_of(word).hash(), word, ids);
}

std::optional<std::vector<TokenId>> find(const WordTable& table, const std::string& word) {
  std::vector<TokenId> ids;
  if (!table.find(key_of(word), key_of(word).hash(), word, ids)) return std::nullopt;
  return ids;
}

}  // namespace

TEST_CASE("a short key is the same however many bytes may be read after it") {
  Random random(1);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = random_bytes(random, 40);
    bytes.resize(40);
    const size_t size = 1 + random() % WordTable::kMaxShort;
    const WordKey exact = WordTable::short_key(std::string(bytes, 0, size).data(), size, size);
    REQUIRE(WordTable::short_key(bytes.data(), size, 40) == exact);
    REQUIRE(WordTable::short_key(bytes.data(), size, 16) == exact);
    REQUIRE(exact.high != 0);
  }
  // zero bytes count
  CHECK_FALSE(key_of(std::string("a")) == key_of(std::string("a\0", 2)));
}

TEST_CASE("what goes in comes out: any word length, any number of ids, through growth and copying") {
  Random random(2);
  WordTable table(size_t{16} << 20);
  std::map<std::string, std::vector<TokenId>> expected;
  while (expected.size() < 40000) {
    std::string word = random_bytes(random, random() % 8 == 0 ? 60 : 20);
    if (word.empty() || expected.contains(word)) continue;
    std::vector<TokenId> ids(1 + random() % (random() % 8 == 0 ? 40 : 6));
    for (TokenId& id : ids) id = static_cast<TokenId>(random() % (1 << 20));
    CHECK_FALSE(find(table, word));
    insert(table, word, ids);
    expected[word] = ids;
  }
  CHECK(table.size() == expected.size());
  const WordTable copy(table);
  WordTable assigned(size_t{1} << 20);
  assigned = copy;
  for (const WordTable* each : std::initializer_list<const WordTable*>{&table, &copy, &assigned})
    for (const auto& [word, ids] : expected) REQUIRE(find(*each, word) == ids);
}

TEST_CASE("long words are told apart by their bytes, not by their hash") {
  WordTable table(size_t{1} << 20);
  const std::string one(20, 'x'), other(20, 'y');
  insert(table, one, {7});
  std::vector<TokenId> ids;
  CHECK_FALSE(table.find(key_of(one), key_of(one).hash(), other, ids));  // as if both had one hash
  CHECK(table.find(key_of(one), key_of(one).hash(), one, ids));
}

TEST_CASE("a full table says so, keeps its bound and what it has") {
  constexpr size_t kBound = size_t{1} << 20;
  WordTable table(kBound);
  std::vector<std::string> kept;
  for (int i = 0; i < 200000 && !table.full(); ++i) {
    kept.push_back(std::to_string(i) + "word");
    insert(table, kept.back(), {static_cast<TokenId>(i)});
  }
  CHECK(table.full());
  CHECK(table.bytes() <= kBound);
  CHECK(table.size() > 1000);
  kept.resize(table.size());
  for (size_t i = 0; i < kept.size(); ++i)
    REQUIRE(find(table, kept[i]) == std::vector<TokenId>{static_cast<TokenId>(i)});

  WordTable long_words(kBound);
  for (int i = 0; i < 200000 && !long_words.full(); ++i)
    insert(long_words, std::to_string(i) + std::string(200, 'x'), {1});
  CHECK(long_words.full());
  CHECK(long_words.bytes() <= kBound);
}
