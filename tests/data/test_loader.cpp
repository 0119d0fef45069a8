#include <algorithm>
#include <set>

#include <doctest/doctest.h>

#include "llmft/base/file.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/data/loader.hpp"
#include "llmft/data/shard_file.hpp"
#include "scratch.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

struct Document {
  std::vector<uint32_t> tokens;
  uint32_t loss_start;
};

// Lengths spread as those of instruction data: many short, a few long.
std::vector<Document> documents(uint64_t count, uint64_t longest) {
  std::vector<Document> out;
  for (uint64_t i = 0; i < count; ++i) {
    CounterRng rng(11, i);
    double u = rng.uniform(0);
    auto length = 3 + static_cast<uint64_t>(u * u * u * static_cast<double>(longest - 3));
    Document d{{}, static_cast<uint32_t>(1 + rng.below(1, length - 1))};
    for (uint64_t t = 0; t < length; ++t) d.tokens.push_back(static_cast<uint32_t>(rng.below(2 + t, 1000)));
    out.push_back(std::move(d));
  }
  return out;
}

// A shard folder of these documents; document i is of source row 10 i.
void write_folder(const fs::path& folder, const std::vector<Document>& docs, uint64_t per_shard) {
  fs::create_directories(folder);
  Manifest m;
  m.template_name = "llama3";
  m.fingerprint = "xxh3-128:f";
  m.tokenizer = {"bytes", "xxh3-128:t", 1000, 1, 2, 3};
  m.settings = "{}";
  uint64_t count = (docs.size() + per_shard - 1) / per_shard;
  for (uint64_t s = 0; s < count; ++s) {
    Manifest::Shard shard;
    shard.file = shard_name(s, count);
    ShardWriter writer(folder / shard.file,
                       {m.tokenizer.hash, m.settings, m.fingerprint, "train", s, count, 0, per_shard});
    for (uint64_t i = s * per_shard; i < std::min<uint64_t>(docs.size(), (s + 1) * per_shard); ++i) {
      writer.add(docs[i].tokens, docs[i].loss_start, 10 * i);
      ++shard.rows;
      shard.tokens += docs[i].tokens.size();
    }
    writer.finish({});
    shard.bytes = fs::file_size(folder / shard.file);
    m.kept += shard.rows;
    m.tokens += shard.tokens;
    m.shards.push_back(shard);
  }
  write_file_atomic(folder / "manifest.json", to_json(m));
}

bool same(const Pack& a, const Pack& b) {
  return a.tokens == b.tokens && a.positions == b.positions && a.cu_seqlens == b.cu_seqlens &&
         a.loss_rows == b.loss_rows && a.targets == b.targets && a.rows == b.rows;
}

void check_pack(const Pack& pack, const std::vector<Document>& docs, size_t pack_tokens) {
  REQUIRE(pack.tokens.size() <= pack_tokens);
  REQUIRE(pack.cu_seqlens.size() == pack.rows.size() + 1);
  CHECK(pack.cu_seqlens.front() == 0);
  CHECK(static_cast<size_t>(pack.cu_seqlens.back()) == pack.tokens.size());
  std::vector<int32_t> tokens, positions, loss_rows, targets;
  for (size_t d = 0; d < pack.rows.size(); ++d) {
    const Document& doc = docs[pack.rows[d] / 10];
    auto begin = static_cast<size_t>(pack.cu_seqlens[d]);
    REQUIRE(static_cast<size_t>(pack.cu_seqlens[d + 1]) - begin == doc.tokens.size());
    for (size_t t = 0; t < doc.tokens.size(); ++t) {
      tokens.push_back(static_cast<int32_t>(doc.tokens[t]));
      positions.push_back(static_cast<int32_t>(t));
      // the output at t - 1 predicts the supervised token t
      if (t >= doc.loss_start) {
        loss_rows.push_back(static_cast<int32_t>(begin + t - 1));
        targets.push_back(static_cast<int32_t>(doc.tokens[t]));
      }
    }
  }
  CHECK(pack.tokens == tokens);
  CHECK(pack.positions == positions);
  CHECK(pack.loss_rows == loss_rows);
  CHECK(pack.targets == targets);
}

}  // namespace

TEST_CASE("an epoch has every sample once, packs are well formed and well filled") {
  Scratch scratch;
  auto docs = documents(3000, 512);
  write_folder(scratch.path(), docs, 700);
  ShardSet shards(scratch.path());
  CHECK(shards.size() == docs.size());
  Loader loader(shards, {.pack_tokens = 1024, .seed = 5});
  std::vector<std::vector<uint64_t>> orders;
  for (uint64_t epoch : {0, 1}) {
    std::multiset<uint64_t> seen;
    uint64_t tokens = 0;
    uint64_t loss = 0;
    orders.emplace_back();
    for (uint64_t i = 0; i < loader.packs_in_epoch(epoch); ++i) {
      Pack pack = loader.pack(epoch, i);
      check_pack(pack, docs, 1024);
      CHECK(loader.loss_tokens(epoch, i) == pack.loss_rows.size());
      seen.insert(pack.rows.begin(), pack.rows.end());
      orders.back().insert(orders.back().end(), pack.rows.begin(), pack.rows.end());
      tokens += pack.tokens.size();
      loss += pack.loss_rows.size();
    }
    CHECK(seen.size() == docs.size());
    CHECK(std::set<uint64_t>(seen.begin(), seen.end()).size() == docs.size());
    CHECK(tokens == loader.tokens_in_epoch());
    CHECK(loss == loader.loss_tokens_in_epoch());
    CHECK(static_cast<double>(tokens) / static_cast<double>(loader.packs_in_epoch(epoch) * 1024) > 0.97);
  }
  CHECK(orders[0] != orders[1]);
}

TEST_CASE("a pack is a function of seed, epoch and index alone") {
  Scratch scratch;
  write_folder(scratch / "a", documents(500, 200), 100);
  ShardSet shards(scratch / "a");
  Loader one(shards, {.pack_tokens = 256, .seed = 5});
  Loader resumed(shards, {.pack_tokens = 256, .seed = 5});
  Loader other(shards, {.pack_tokens = 256, .seed = 6});
  for (uint64_t epoch : {0, 1, 2, 0}) CHECK(one.packs_in_epoch(epoch) > 3);
  CHECK(same(one.pack(7, 3), resumed.pack(7, 3)));
  CHECK(same(one.pack(0, 2), resumed.pack(0, 2)));
  CHECK_FALSE(same(one.pack(0, 2), other.pack(0, 2)));
  // how the samples are spread over shards does not matter
  write_folder(scratch / "b", documents(500, 200), 333);
  ShardSet differently(scratch / "b");
  Loader same_plan(differently, {.pack_tokens = 256, .seed = 5});
  CHECK(same(one.pack(1, 4), same_plan.pack(1, 4)));
}

TEST_CASE("lengths are not ordered along an epoch") {
  Scratch scratch;
  auto docs = documents(4000, 512);
  write_folder(scratch.path(), docs, 4000);
  ShardSet shards(scratch.path());
  Loader loader(shards, {.pack_tokens = 512, .seed = 1});
  uint64_t packs = loader.packs_in_epoch(0);
  double halves[2] = {0, 0};
  double samples[2] = {0, 0};
  for (uint64_t i = 0; i < packs; ++i) {
    Pack pack = loader.pack(0, i);
    halves[2 * i >= packs] += static_cast<double>(pack.tokens.size());
    samples[2 * i >= packs] += static_cast<double>(pack.rows.size());
  }
  CHECK(halves[0] / samples[0] == doctest::Approx(halves[1] / samples[1]).epsilon(0.1));
}

TEST_CASE("sequential: source order, every epoch the same") {
  Scratch scratch;
  auto docs = documents(300, 100);
  write_folder(scratch.path(), docs, 64);
  ShardSet shards(scratch.path());
  Loader loader(shards, {.pack_tokens = 128, .seed = 9, .order = LoadOrder::sequential});
  std::vector<uint64_t> rows;
  for (uint64_t i = 0; i < loader.packs_in_epoch(3); ++i) {
    Pack pack = loader.pack(3, i);
    check_pack(pack, docs, 128);
    rows.insert(rows.end(), pack.rows.begin(), pack.rows.end());
    CHECK(same(pack, loader.pack(0, i)));
  }
  CHECK(rows.size() == docs.size());
  CHECK(std::is_sorted(rows.begin(), rows.end()));
}

TEST_CASE("samples longer than a pack are counted and left out") {
  Scratch scratch;
  auto docs = documents(500, 512);
  write_folder(scratch.path(), docs, 500);
  ShardSet shards(scratch.path());
  auto longer = static_cast<uint64_t>(
      std::count_if(docs.begin(), docs.end(), [](const Document& d) { return d.tokens.size() > 100; }));
  REQUIRE(longer > 0);
  Loader loader(shards, {.pack_tokens = 100});
  CHECK(loader.too_long() == longer);
  CHECK(loader.samples() == docs.size() - longer);
  CHECK(contains(error_of([&] { Loader(shards, {.pack_tokens = 2}); }),
                 "every sample is longer than 2 tokens"));
}

TEST_CASE("shards that do not fit are refused") {
  Scratch scratch;
  auto docs = documents(100, 50);
  fs::path folder = scratch / "s";
  write_folder(folder, docs, 40);
  auto refused = [&](const ShardExpectation& expected = {}) {
    return error_of([&] { ShardSet(folder, expected).verify(); });
  };
  CHECK(refused() == "");
  CHECK(refused({"bytes", "xxh3-128:t", 1000}) == "");
  CHECK(refused({"bytes", "xxh3-128:t", 1024}) == "");  // a padded embedding
  CHECK(contains(refused({"bytes", "xxh3-128:other", 1000}), "shards of another tokenizer"));
  CHECK(contains(refused({"", "", 999}), "shards of another vocabulary (1000 ids, the model has 999)"));
  CHECK(contains(refused({"", "", 128256}), "shards of another vocabulary"));

  fs::path shard = folder / shard_name(1, 3);
  std::string whole = read_file(shard);
  scratch.write("s/" + shard_name(1, 3), whole.substr(0, whole.size() - 10));
  CHECK(contains(refused(), "the manifest says"));
  std::string damaged = whole;
  std::string first(reinterpret_cast<const char*>(docs[40].tokens.data()), docs[40].tokens.size() * 4);
  REQUIRE(whole.find(first) != std::string::npos);
  damaged[whole.find(first)] = static_cast<char>(damaged[whole.find(first)] ^ 1);
  scratch.write("s/" + shard_name(1, 3), damaged);
  CHECK(contains(refused(), "checksum of /tokens does not hold"));
  fs::copy_file(folder / shard_name(0, 3), shard, fs::copy_options::overwrite_existing);
  CHECK(contains(refused(), shard_name(1, 3)));
  fs::remove(shard);
  CHECK(contains(refused(), shard_name(1, 3) + ": shard is missing"));
  scratch.write("s/manifest.json", "{");
  CHECK(contains(refused(), "not a manifest of shards"));
  fs::remove(folder / "manifest.json");
  CHECK(contains(refused(), "no manifest.json"));
  fs::remove_all(folder);
  CHECK(contains(refused(), "no such folder"));
}

TEST_CASE("a manifest reads back as it was written") {
  Scratch scratch;
  write_folder(scratch.path(), documents(10, 20), 4);
  CHECK(to_json(read_manifest(scratch.path())) == read_file(scratch / "manifest.json"));
}
