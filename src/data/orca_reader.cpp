#include "llmft/data/orca_reader.hpp"

#include <algorithm>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"
#include "readers.hpp"

namespace llmft {

uint64_t row_hash(const Row& row) {
  // Chained by seed, so that text moved from one field to the next gives another hash.
  return hash64(row.response, hash64(row.question, hash64(row.system_prompt)));
}

void refuse_columns(const std::string& where, const std::vector<std::string>& missing,
                    const std::vector<std::string>& have) {
  std::string near;
  for (const std::string& name : missing) {
    std::string found = nearest_name(name, have);
    if (!found.empty()) near += fmt::format("{}'{}' for '{}'", near.empty() ? "" : ", ", found, name);
  }
  user_error(
      "{}: no column {} (it has: {}){}; OpenOrca's columns system_prompt, question and response are "
      "needed",
      where, join(missing, ", "), have.empty() ? "none" : join(have, ", "),
      near.empty() ? "" : fmt::format("; nearest: {}", near));
}

std::unique_ptr<RowReader> open_piece(const SourceFile& file, const SourcePiece& piece, IdColumn id) {
  return file.format == SourceFormat::parquet ? open_parquet(file, piece, id) : open_jsonl(file, piece);
}

SourceCursor::SourceCursor(std::span<const SourceFile> files, std::span<const SourcePiece> pieces,
                           IdColumn id)
    : files_(files), pieces_(pieces), id_(id), first_row_{0} {
  for (const SourcePiece& piece : pieces) first_row_.push_back(first_row_.back() + piece.rows.value());
}

void SourceCursor::seek(uint64_t row) {
  auto after = std::upper_bound(first_row_.begin(), first_row_.end(), row);
  size_t piece = static_cast<size_t>(after - first_row_.begin()) - 1;
  if (piece >= pieces_.size()) {  // at or beyond the end
    reader_.reset();
    piece_ = pieces_.size();
    position_ = rows();
    return;
  }
  // Ahead in the open piece: go on from here, since what is compressed cannot be entered in the middle.
  bool ahead = reader_ != nullptr && piece == piece_ && row >= position_;
  if (!ahead) {
    piece_ = piece;
    position_ = first_row_[piece];
    reader_ = open_piece(files_[pieces_[piece].file], pieces_[piece], id_);
  }
  if (row > position_) reader_->skip(row - position_);
  position_ = row;
}

bool SourceCursor::next(Row& row) {
  if (position_ == rows()) return false;
  if (reader_ == nullptr || position_ == first_row_[piece_ + 1]) {
    reader_.reset();
    seek(position_);
  }
  if (!reader_->next(row))
    user_error("{}: fewer rows than a moment ago (the file changed while it was read); run again",
               files_[pieces_[piece_].file].path.string());
  ++position_;
  return true;
}

}  // namespace llmft
