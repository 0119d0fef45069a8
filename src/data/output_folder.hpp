// What an output folder already holds, and whether this run may go on with it. Rank 0 only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace llmft {

enum class Overwrite { no, yes };

struct FolderState {
  bool whole = false;              // manifests and all their shards, from the same input and settings
  std::vector<uint64_t> finished;  // shards (both splits) that are there, ascending
};

// The folder of the validation split.
std::filesystem::path validation_folder(const std::filesystem::path& output);

// Makes the folders, removes temporary files of a run that was killed, and shards that cannot be read. What
// comes from other input or settings is refused, saying what differs; with Overwrite::yes it is removed.
// settings: the JSON object whose hash is fingerprint.
FolderState prepare_output(const std::filesystem::path& output, bool with_validation,
                           const std::string& settings, const std::string& fingerprint, Overwrite overwrite);

}  // namespace llmft
