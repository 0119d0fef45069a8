#include <fmt/format.h>

#include "llmft/data/orca_reader.hpp"
#include "llmft/data/pipeline.hpp"
#include "sample_maker.hpp"

namespace llmft {

void print_preview(const Tokenizer& tokenizer, const PreprocessOptions& options, PreviewStyle style,
                   std::FILE* out) {
  SampleMaker maker(tokenizer, options);
  std::vector<SourceFile> files = find_sources(options.input);
  bool colour = style == PreviewStyle::colour;
  const char* open = colour ? "\033[32m" : "[[";
  const char* close = colour ? "\033[0m" : "]]";
  int64_t shown = 0;
  uint64_t index = 0;
  for (const SourcePiece& piece : cut_sources(files)) {
    std::unique_ptr<RowReader> reader = open_piece(files[piece.file], piece, IdColumn::read);
    Row row;
    Sample sample;
    std::vector<TokenId> tokens;
    for (; shown < options.preview && reader->next(row); ++index) {
      std::string name = fmt::format("row {}{}", index, row.id.empty() ? "" : fmt::format(" ({})", row.id));
      tokens.clear();
      if (auto reason = maker.make(row, tokens, sample)) {
        fmt::print(out, "--- {}: dropped, {}\n", name, kDropReasonNames[static_cast<size_t>(*reason)]);
        continue;
      }
      std::span<const TokenId> ids = tokens;
      fmt::print(out, "--- {}: {} tokens, {} supervised{}\n{}{}{}{}\n", name, ids.size(),
                 ids.size() - sample.loss_start, sample.truncated ? ", cut" : "",
                 tokenizer.decode(ids.first(sample.loss_start)), open,
                 tokenizer.decode(ids.subspan(sample.loss_start)), close);
      ++shown;
    }
    if (shown == options.preview) break;
  }
  fmt::print(out, "--- supervised text is {}; nothing was written\n", colour ? "green" : "in [[ ]]");
}

}  // namespace llmft
