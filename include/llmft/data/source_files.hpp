// Which files an input path means, and how they are cut into pieces that ranks can read independently.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace llmft {

enum class SourceFormat { parquet, jsonl, jsonl_gzip, jsonl_zstd };

struct SourceFile {
  std::filesystem::path path;
  std::string name;  // relative to the input folder: the same on every machine
  SourceFormat format;
  uint64_t bytes;
};

// input: a file, a folder (read with its subfolders, hidden ones left out) or a glob pattern. By suffix:
// .parquet; .jsonl or .ndjson, also with .gz or .zst. Sorted by name, bytewise, which fixes the numbers of
// the rows. UserError: nothing found, unreadable, unknown suffix.
std::vector<SourceFile> find_sources(const std::string& input);

// A run of rows that can be read without reading what stands before it.
struct SourcePiece {
  size_t file = 0;
  // Parquet: rows [begin, begin + rows) of this row group. JSONL: the lines that start in bytes [begin, end).
  int row_group = 0;
  uint64_t begin = 0;
  uint64_t end = 0;
  std::optional<uint64_t> rows;  // JSONL: not known before it is read
};

// In source order. Opens every Parquet file's footer. UserError: truncated Parquet, missing columns.
std::vector<SourcePiece> cut_sources(const std::vector<SourceFile>& files);

}  // namespace llmft
