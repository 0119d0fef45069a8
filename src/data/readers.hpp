// The two formats behind orca_reader.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "llmft/data/orca_reader.hpp"
#include "llmft/data/source_files.hpp"

namespace llmft {

// What is hashed at once, and the piece in which plain JSON lines are cut, so that several ranks share a
// large file.
constexpr uint64_t kBlockBytes = uint64_t{16} << 20;

// Rows of a piece are cut so that one huge row group can be shared by many ranks.
void cut_parquet(const SourceFile& file, size_t index, std::vector<SourcePiece>& pieces);
std::unique_ptr<RowReader> open_parquet(const SourceFile& file, const SourcePiece& piece, IdColumn id);

void cut_jsonl(const SourceFile& file, size_t index, std::vector<SourcePiece>& pieces);
std::unique_ptr<RowReader> open_jsonl(const SourceFile& file, const SourcePiece& piece);
// Rows of a piece of JSON lines, undecoded. meanwhile is called now and then.
uint64_t count_rows(const SourceFile& file, const SourcePiece& piece, const std::function<void()>& meanwhile);
// The same for a plain file of which the piece's bytes are there. starts_line: the first of them does.
uint64_t count_rows(const SourceFile& file, const SourcePiece& piece, std::string_view bytes,
                    bool starts_line);

// "did you mean 'x'?" for columns or keys that are not there. have: the names that are.
[[noreturn]] void refuse_columns(const std::string& where, const std::vector<std::string>& missing,
                                 const std::vector<std::string>& have);

}  // namespace llmft
