// Streams rows of OpenOrca's schema from Parquet and JSONL, in constant memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "llmft/data/source_files.hpp"

namespace llmft {

// One sample; null fields are empty. The bytes stay valid until the reader is next used. They are as the file
// has them: not trimmed, and not necessarily UTF-8. A JSON line that is not UTF-8, and so not JSON, comes as
// a row whose question is the line.
struct Row {
  std::string_view id;
  std::string_view system_prompt;
  std::string_view question;
  std::string_view response;
};

// Of the three text fields, in order; the same wherever the row stands. XXH3-64.
uint64_t row_hash(const Row& row);

enum class IdColumn { skip, read };

class RowReader {
 public:
  virtual ~RowReader() = default;
  // False at the end. UserError: corrupt data, malformed JSON (with file:line).
  virtual bool next(Row& row) = 0;
  // Passes over rows without decoding them where the format allows.
  virtual void skip(uint64_t rows) = 0;
};

std::unique_ptr<RowReader> open_piece(const SourceFile& file, const SourcePiece& piece,
                                      IdColumn id = IdColumn::skip);

// All pieces as one sequence of numbered rows. Every piece's row count must be known.
class SourceCursor {
 public:
  SourceCursor(std::span<const SourceFile> files, std::span<const SourcePiece> pieces,
               IdColumn id = IdColumn::skip);

  uint64_t rows() const { return first_row_.back(); }
  // Moves to a row; cheap when it is the one that next() would give.
  void seek(uint64_t row);
  // UserError if a piece now has another number of rows than was counted.
  bool next(Row& row);

 private:
  std::span<const SourceFile> files_;
  std::span<const SourcePiece> pieces_;
  IdColumn id_;
  std::vector<uint64_t> first_row_;  // of each piece, and the total
  size_t piece_ = 0;
  uint64_t position_ = 0;              // row that next() gives
  std::unique_ptr<RowReader> reader_;  // in piece_, at position_; null: to be opened
};

}  // namespace llmft
