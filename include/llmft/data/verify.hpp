// Is a shard folder what its manifest says, and what its source says?
#pragma once

#include <string>

#include "llmft/comm/process.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {

// Collective. Reads every byte of the shards of both splits: sizes, hashes, checksums, order, sums of the
// manifest, overlap of the splits. With the input they were made from and the tokenizer, a sample of each
// shard is decoded and compared with its source rows (empty and null: not compared, which the report says).
// UserError at the end when anything is wrong, after a warning for each finding.
void verify_shards(const Process& process, const std::string& folder, const std::string& input,
                   const Tokenizer* tokenizer);

}  // namespace llmft
