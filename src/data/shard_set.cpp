#include "llmft/data/shard_set.hpp"

#include <algorithm>

#include "duplicates.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/data/shard_file.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

void check_tokenizer(const fs::path& folder, const Manifest::Tokenizer& made,
                     const ShardExpectation& expected) {
  const char* advice = "make shards for this model with 'llmft preprocess --tokenizer MODEL_FOLDER'";
  uint64_t vocabulary = expected.vocabulary_size;
  if (vocabulary != 0 &&
      (made.vocabulary_size > vocabulary || vocabulary - made.vocabulary_size > kVocabularyPadding))
    user_error("{}: shards of another vocabulary ({} ids, the model has {}); {}", folder.string(),
               made.vocabulary_size, vocabulary, advice);
  if (expected.tokenizer_hash.empty() || expected.tokenizer_hash == made.hash) return;
  // One vocabulary has two files in Llama's folders, and their hashes say nothing about each other.
  if (!expected.tokenizer_kind.empty() && expected.tokenizer_kind != made.kind) {
    log::warn(
        "{}: shards were made with a {} tokenizer, the model's is {}; whether they agree is not checked",
        folder.string(), made.kind, expected.tokenizer_kind);
    return;
  }
  user_error("{}: shards of another tokenizer ({}, the model's is {}); {}", folder.string(), made.hash,
             expected.tokenizer_hash, advice);
}

}  // namespace

ShardSet::ShardSet(const fs::path& folder, const ShardExpectation& expected)
    : folder_(folder), manifest_(read_manifest(folder)), first_sample_{0} {
  check_tokenizer(folder, manifest_.tokenizer, expected);
  samples_.reserve(manifest_.kept);
  std::optional<DuplicateRows> duplicates;
  if (!manifest_.duplicates.file.empty()) duplicates.emplace(folder / manifest_.duplicates.file);
  for (const Manifest::Shard& shard : manifest_.shards) {
    fs::path path = folder / shard.file;
    const char* advice = "run 'llmft preprocess' again with the same settings to make it anew";
    std::error_code error;
    uint64_t bytes = fs::file_size(path, error);
    if (error) user_error("{}: shard is missing ({}); {}", path.string(), error.message(), advice);
    if (bytes != shard.bytes)
      user_error("{}: shard has {} bytes, the manifest says {}; {}", path.string(), bytes, shard.bytes,
                 advice);
    shards_.push_back(std::make_unique<ShardReader>(path));
    const ShardReader& reader = *shards_.back();
    if (reader.origin().fingerprint != manifest_.fingerprint || reader.samples() != shard.rows ||
        reader.tokens() != shard.tokens)
      user_error("{}: shard does not belong to this manifest; {}", path.string(), advice);
    std::vector<uint64_t> offsets = reader.offsets();
    std::vector<uint32_t> starts = reader.loss_starts();
    std::vector<uint64_t> repeated;
    std::vector<uint64_t> rows;
    uint64_t first = reader.origin().first_row;
    if (duplicates) repeated = duplicates->in(first, first + reader.origin().rows);
    if (!repeated.empty()) rows = reader.rows();
    std::vector<uint32_t>& left_out = left_out_.emplace_back();
    for (size_t i = 0; i < starts.size(); ++i) {
      size_t passed = left_out.size();
      if (passed < repeated.size() && rows[i] == repeated[passed]) {
        left_out.push_back(static_cast<uint32_t>(i - passed));
        continue;
      }
      uint64_t length = offsets[i + 1] - offsets[i];
      if (starts[i] < 1 || starts[i] >= length)
        user_error("{}: sample {} has no supervised token; {}", path.string(), i, advice);
      samples_.push_back({offsets[i], static_cast<uint32_t>(length), starts[i]});
    }
    if (left_out.size() != repeated.size())
      user_error("{}: does not have all rows that {} lists; {}", path.string(), manifest_.duplicates.file,
                 advice);
    first_sample_.push_back(samples_.size());
  }
  if (samples_.size() != manifest_.kept)
    user_error("{}: its shards have {} samples, the manifest says {}; run 'llmft preprocess --force' again",
               folder.string(), samples_.size(), manifest_.kept);
}

ShardSet::~ShardSet() = default;
ShardSet::ShardSet(ShardSet&&) noexcept = default;

size_t ShardSet::shard_of(uint64_t sample) const {
  auto after = std::upper_bound(first_sample_.begin(), first_sample_.end(), sample);
  return static_cast<size_t>(after - first_sample_.begin()) - 1;
}

void ShardSet::append_tokens(uint64_t sample, std::vector<int32_t>& out) const {
  const Sample& s = samples_[sample];
  size_t begin = out.size();
  const ShardReader& shard = *shards_[shard_of(sample)];
  shard.append_tokens(s.start, s.length, out);
  // An id outside the vocabulary would index past the embedding.
  for (size_t i = begin; i < out.size(); ++i)
    if (static_cast<uint64_t>(static_cast<uint32_t>(out[i])) >= manifest_.tokenizer.vocabulary_size)
      user_error("{}: token {} is outside the vocabulary of {}; run 'llmft preprocess --force' again",
                 shard.path().string(), static_cast<uint32_t>(out[i]), manifest_.tokenizer.vocabulary_size);
}

uint64_t ShardSet::row(uint64_t sample) const {
  size_t shard = shard_of(sample);
  uint64_t kept = sample - first_sample_[shard];
  const std::vector<uint32_t>& out = left_out_[shard];
  auto passed = std::upper_bound(out.begin(), out.end(), kept) - out.begin();
  return shards_[shard]->row(kept + static_cast<uint64_t>(passed));
}

void ShardSet::verify() const {
  for (const auto& shard : shards_) shard->verify();
}

}  // namespace llmft
