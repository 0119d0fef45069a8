// Preprocessing: rows -> template -> tokens -> shards and manifest. Each shard is a fixed range of source
// rows and is claimed by whichever rank is free, so its bytes do not depend on how many ranks there are.
//
// A run is: hash the sources; look at what the output folder has; scan all rows (their number and hashes, for
// duplicates); write the shards that are not there; write the manifests, last. A run that is killed leaves
// whole shards and no manifest, and the next run writes the rest. Reading, encoding and writing overlap, and
// a table of where each rank's time went is printed at the end. Memory per rank: 24 bytes a source row at the
// most (1 GiB at 44 million rows), 28 a row of up to five shards on their way to the disk, and 64 MB of
// buffers.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "llmft/comm/process.hpp"
#include "llmft/config/options.hpp"
#include "llmft/data/chat_template.hpp"
#include "llmft/data/manifest.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {

enum class OnTooLong { drop, truncate };

struct PreprocessOptions {
  std::string input;
  std::string tokenizer;
  std::string output;
  TemplateKind chat_template = TemplateKind::automatic;
  int64_t max_length = 2048;
  OnTooLong on_too_long = OnTooLong::drop;
  int64_t min_length = 0;
  double validation = 0;
  int64_t rows_per_shard = 32768;
  bool force = false;
  int64_t preview = 0;
  std::string verify;  // a shard folder: check it, write nothing
};
void describe(OptionSet& set, PreprocessOptions& options);

// Collective. The manifest of the training split, on every rank; the validation split's lies in
// output/valid/manifest.json. Prints progress and a summary on rank 0. UserError, on the rank that met it:
// bad input, an output folder made from other input or settings (unless force), a full disk.
Manifest preprocess(const Process& process, const Tokenizer& tokenizer, const PreprocessOptions& options);

enum class PreviewStyle { colour, brackets };  // how supervised text is marked
// Prints the first options.preview samples that would be kept, and says why rows before them would not be.
// Writes no file.
void print_preview(const Tokenizer& tokenizer, const PreprocessOptions& options, PreviewStyle style,
                   std::FILE* out);

}  // namespace llmft
