#include <cstring>

#include <doctest/doctest.h>

#include "llmft/base/file.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/data/shard_file.hpp"
#include "scratch.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

ShardOrigin origin() {
  return {"xxh3-128:tokenizer", R"({"a":1})", "xxh3-128:print", "train", 3, 8, 3000, 1000};
}

std::vector<uint32_t> sample(uint64_t i) {
  CounterRng rng(7, i);
  std::vector<uint32_t> tokens(2 + rng.below(0, 300));
  for (size_t t = 0; t < tokens.size(); ++t) tokens[t] = static_cast<uint32_t>(rng.below(t + 1, 128256));
  return tokens;
}

void write(const fs::path& path, uint64_t samples) {
  ShardWriter writer(path, origin());
  for (uint64_t i = 0; i < samples; ++i) writer.add(sample(i), 1, 3000 + 2 * i);
  writer.finish({{1, 2, 3, 4, 7}, 5, 6});
}

size_t files_in(const fs::path& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

}  // namespace

TEST_CASE("what is written is read back, over chunk and buffer edges") {
  Scratch scratch;
  for (uint64_t samples : {0, 1, 1000, 20000}) {
    fs::path path = scratch / shard_name(3, 8);
    write(path, samples);
    ShardReader reader(path);
    CAPTURE(samples);
    CHECK(reader.samples() == samples);
    CHECK(reader.origin().fingerprint == "xxh3-128:print");
    CHECK(reader.origin().settings == R"({"a":1})");
    CHECK(reader.origin().tokenizer_hash == "xxh3-128:tokenizer");
    CHECK(reader.origin().split == "train");
    CHECK(reader.origin().index == 3);
    CHECK(reader.origin().count == 8);
    CHECK(reader.origin().first_row == 3000);
    CHECK(reader.origin().rows == 1000);
    CHECK(reader.counts().drops == DropCounts{1, 2, 3, 4, 7});
    CHECK(reader.counts().other_split == 5);
    CHECK(reader.counts().truncated == 6);
    reader.verify();
    auto offsets = reader.offsets();
    REQUIRE(offsets.size() == samples + 1);
    for (uint64_t i = 0; i < samples; i += 1 + samples / 100) {
      std::vector<int32_t> got;
      reader.append_tokens(offsets[i], offsets[i + 1] - offsets[i], got);
      std::vector<uint32_t> expected = sample(i);
      CHECK(std::equal(got.begin(), got.end(), expected.begin(), expected.end()));
      CHECK(reader.row(i) == 3000 + 2 * i);
    }
    CHECK(files_in(scratch.path()) == 1);  // no temporary file is left
  }
}

TEST_CASE("the bytes depend on the content alone") {
  Scratch scratch;
  write(scratch / "a.h5", 5000);
  write(scratch / "b.h5", 5000);
  CHECK(read_file(scratch / "a.h5") == read_file(scratch / "b.h5"));
}

TEST_CASE("a shard that is not finished leaves nothing") {
  Scratch scratch;
  {
    ShardWriter writer(scratch / "a.h5", origin());
    writer.add(sample(1), 1, 0);
    CHECK(files_in(scratch.path()) == 1);
    CHECK_FALSE(fs::exists(scratch / "a.h5"));
  }
  CHECK(files_in(scratch.path()) == 0);
}

TEST_CASE("an output that cannot be written is a clear error") {
  CHECK(
      contains(error_of([] { ShardWriter("/proc/none/a.h5", origin()); }), "/proc/none/a.h5: cannot write"));
}

TEST_CASE("damage anywhere is found") {
  Scratch scratch;
  fs::path path = scratch / "a.h5";
  write(path, 3000);
  std::string whole = read_file(path);
  int found = 0;
  int tried = 0;
  for (size_t at = 3; at < whole.size(); at += whole.size() / 40) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    scratch.write("b.h5", bytes);
    ++tried;
    std::string error = error_of([&] { ShardReader(scratch / "b.h5").verify(); });
    if (error.empty()) continue;
    ++found;
    CHECK((contains(error, "b.h5: not a whole shard") || contains(error, "b.h5: not a shard")));
  }
  CHECK(found >= tried - 2);  // a byte may lie in space that HDF5 keeps unused

  // in the middle of the tokens, the message says what and where
  std::vector<uint32_t> first = sample(0);
  size_t tokens_at = whole.find(std::string(reinterpret_cast<const char*>(first.data()), first.size() * 4));
  REQUIRE(tokens_at != std::string::npos);
  std::string bytes = whole;
  bytes[tokens_at + 100] = static_cast<char>(bytes[tokens_at + 100] ^ 1);
  scratch.write("b.h5", bytes);
  ShardReader reader(scratch / "b.h5");
  std::vector<int32_t> out;
  CHECK(contains(error_of([&] { reader.append_tokens(0, 10, out); }),
                 "checksum of /tokens does not hold from element 0"));

  for (size_t size : {size_t{0}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    scratch.write("b.h5", whole.substr(0, size));
    CHECK(contains(error_of([&] { ShardReader(scratch / "b.h5").verify(); }), "b.h5: not a whole shard"));
  }
  CHECK(contains(error_of([&] { ShardReader(scratch / "none.h5"); }), "none.h5: cannot open"));
}
