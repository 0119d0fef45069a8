// manifest.json of a shard folder: what the shards hold, what they were made from and what was left out.
// Written last, so a folder with a manifest is whole. Deterministic bytes: keys sorted, no time, no host, no
// rank count. The fields are documented in docs/shards.md.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "llmft/base/error.hpp"

namespace llmft {

constexpr int64_t kShardFormatVersion = 2;

// A row is tried for them in this order, but for too_short before duplicate.
enum class DropReason { not_utf8, empty, too_long, duplicate, too_short };
constexpr size_t kDropReasons = 5;
constexpr std::array<const char*, kDropReasons> kDropReasonNames = {"not_utf8", "empty", "too_long",
                                                                    "duplicate", "too_short"};
using DropCounts = std::array<uint64_t, kDropReasons>;  // by DropReason

struct Manifest {
  struct Tokenizer {
    std::string kind;  // Tokenizer::kind()
    std::string hash;  // Tokenizer::file_hash()
    uint64_t vocabulary_size = 0;
    // -1: the tokenizer has no such token
    int64_t bos = -1;
    int64_t eos = -1;
    int64_t eot = -1;  // the token that ends a response in these shards
  };
  struct Source {
    std::string name;  // relative to the input folder
    uint64_t bytes = 0;
    std::string hash;
  };
  struct Shard {
    std::string file;
    uint64_t bytes = 0;
    uint64_t rows = 0;  // samples in it, those of `duplicates` among them
    uint64_t tokens = 0;
    uint64_t loss_tokens = 0;
    std::string hash;
  };
  // File of source rows whose samples lie in the shards but are those of an earlier shard: not to be used.
  struct Duplicates {
    std::string file;  // empty: there are none
    uint64_t bytes = 0;
    uint64_t rows = 0;
    std::string hash;
  };
  struct Lengths {  // tokens of a sample; percentiles by nearest rank
    uint64_t min = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;
  };

  int64_t format_version = kShardFormatVersion;
  std::string split = "train";  // or "validation"
  std::string template_name;    // "llama3" or "plain"
  std::string fingerprint;      // hash of tokenizer, template, settings and sources
  Tokenizer tokenizer;
  std::string settings;  // JSON object, as text
  std::vector<Source> sources;
  std::vector<Shard> shards;
  Duplicates duplicates;
  // rows = kept + other_split + all drops
  uint64_t rows = 0;         // source rows read
  uint64_t kept = 0;         // samples in this folder
  uint64_t other_split = 0;  // samples in the other folder (train or validation)
  DropCounts drops{};
  uint64_t truncated = 0;  // kept samples that were cut to the longest length allowed
  uint64_t overlap = 0;    // validation samples whose tokens are also those of a training sample
  uint64_t tokens = 0;
  uint64_t loss_tokens = 0;
  Lengths lengths;
};

std::string to_json(const Manifest& manifest);
// Its content is not what its hash was made of.
class DamagedManifest : public UserError {
 public:
  using UserError::UserError;
};
// folder/manifest.json. UserError: missing (and what to run), not JSON, another format version;
// DamagedManifest.
Manifest read_manifest(const std::filesystem::path& folder);

}  // namespace llmft
