// The two formats behind orca_reader.
#pragma once

#include <memory>
#include <vector>

#include "llmft/data/orca_reader.hpp"
#include "llmft/data/source_files.hpp"

namespace llmft {

// Rows of a piece are cut so that one huge row group can be shared by many ranks.
void cut_parquet(const SourceFile& file, size_t index, std::vector<SourcePiece>& pieces);
std::unique_ptr<RowReader> open_parquet(const SourceFile& file, const SourcePiece& piece, IdColumn id);

void cut_jsonl(const SourceFile& file, size_t index, std::vector<SourcePiece>& pieces);
std::unique_ptr<RowReader> open_jsonl(const SourceFile& file, const SourcePiece& piece);

// "did you mean 'x'?" for columns or keys that are not there. have: the names that are.
[[noreturn]] void refuse_columns(const std::string& where, const std::vector<std::string>& missing,
                                 const std::vector<std::string>& have);

}  // namespace llmft
