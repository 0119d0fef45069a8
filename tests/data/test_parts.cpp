// Small parts of preprocessing against what they replace.
#include <random>
#include <unordered_set>

#include <doctest/doctest.h>

#include "hash_set.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"
#include "scratch.hpp"
#include "utf8.hpp"

using namespace llmft;

TEST_CASE("a set of hashes says what a std::unordered_set says, 0 and crowded slots included") {
  std::mt19937_64 random(1);
  HashSet set;
  for (int round = 0; round < 3; ++round) {
    std::unordered_set<uint64_t> expected;
    for (int i = 0; i < 20000; ++i) {
      uint64_t hash = random() % 3 == 0 ? random() % 4000 : random() % 5 == 0 ? random() << 40 : random();
      REQUIRE(set.insert(hash) == expected.insert(hash).second);
    }
    set.clear();
  }
}

TEST_CASE("UTF-8 is told from other bytes wherever they stand") {
  for (size_t size : {1, 15, 16, 255, 256, 257, 511, 512, 600}) {
    for (size_t at = 0; at < size; ++at) {
      for (const char* bytes :
           {"\xff", "\xc3", "\xc3\xa9", "\xe6\x97\xa5", "\xed\xa0\x80", "\x80", "\xc0\x80"}) {
        std::string text(size, 'a');
        text.replace(at, 1, bytes);
        REQUIRE(valid_utf8(text) == (valid_utf8_prefix(text) == text.size()));
      }
    }
    CHECK(valid_utf8(std::string(size, 'a')));
  }
  CHECK(valid_utf8(""));
}

TEST_CASE("a file that left the cache is the same file") {
  Scratch scratch;
  std::filesystem::path path = scratch.path() / "file";
  std::string content(300000, 'x');
  content[200000] = 'y';
  write_file_atomic(path, content);
  drop_from_cache(path, 65536, 280000);
  drop_from_cache(path, 10, 10);
  drop_from_cache(scratch.path() / "none", 0, 1);
  CHECK(read_file(path) == content);
}
