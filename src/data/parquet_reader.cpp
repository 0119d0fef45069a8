// Parquet below Arrow's tables: a text column is BYTE_ARRAY however Arrow would type it (string,
// large_string, dictionary), and reading pages directly gives views without a copy and lets whole pages
// before the first row wanted be passed over undecoded. Columns' pages do not line up, so each column has its
// own cursor.
#include <algorithm>
#include <array>

#include <arrow/io/file.h>
#include <parquet/api/reader.h>
#include <parquet/exception.h>

#include "llmft/base/error.hpp"
#include "readers.hpp"

namespace llmft {
namespace {

constexpr uint64_t kPieceRows = 32 * 1024;
constexpr int64_t kBatch = 512;
constexpr std::array<const char*, 4> kColumns = {"system_prompt", "question", "response", "id"};
constexpr size_t kTextColumns = 3;

[[noreturn]] void unreadable(const SourceFile& file, const std::string& what, std::string reason) {
  std::replace(reason.begin(), reason.end(), '\n', ' ');
  user_error("{}: {} ({}); fetch or write the file again", file.path.string(), what, reason);
}

std::unique_ptr<parquet::ParquetFileReader> open_file(const SourceFile& file) {
  try {
    auto map = arrow::io::MemoryMappedFile::Open(file.path.string(), arrow::io::FileMode::READ);
    if (!map.ok()) unreadable(file, "cannot open", map.status().message());
    parquet::ReaderProperties properties;
    properties.set_page_checksum_verification(true);  // of pages that carry one
    return parquet::ParquetFileReader::Open(*map, properties);
  } catch (const std::exception& e) {
    if (dynamic_cast<const UserError*>(&e) != nullptr) throw;
    unreadable(file, "not a whole Parquet file", e.what());
  }
}

// One text column of a row group from a given row on.
class TextColumn {
 public:
  TextColumn(parquet::RowGroupReader& group, const parquet::ColumnDescriptor* description, int column,
             uint64_t first_row)
      : nullable_(description->max_definition_level() > 0) {
    std::unique_ptr<parquet::PageReader> pages = group.GetColumnPageReader(column);
    // A flat column has one value a row, nulls counted. Only pages that stand wholly before the row are
    // skipped.
    struct Seek {
      uint64_t before = 0;
      bool arrived = false;
    };
    auto seek = std::make_shared<Seek>();
    pages->set_data_page_filter([seek, first_row](const parquet::DataPageStats& page) {
      auto rows = static_cast<uint64_t>(page.num_values);
      seek->arrived = seek->arrived || seek->before + rows > first_row;
      if (!seek->arrived) seek->before += rows;
      return !seek->arrived;
    });
    reader_ = std::static_pointer_cast<parquet::ByteArrayReader>(
        parquet::ColumnReader::Make(description, std::move(pages)));
    reader_->HasNext();  // goes to the first page kept
    auto rest = static_cast<int64_t>(first_row - seek->before);
    if (reader_->Skip(rest) != rest) throw parquet::ParquetException("the column ends early");
  }

  std::string_view next() {
    if (at_ == levels_read_) refill();
    bool present = !nullable_ || levels_[static_cast<size_t>(at_)] > 0;
    ++at_;
    if (!present) return {};
    const parquet::ByteArray& value = values_[static_cast<size_t>(value_++)];
    return {reinterpret_cast<const char*>(value.ptr), value.len};
  }

 private:
  void refill() {
    at_ = value_ = 0;
    int64_t values_read = 0;
    levels_read_ = reader_->ReadBatch(kBatch, nullable_ ? levels_.data() : nullptr, nullptr, values_.data(),
                                      &values_read);
    if (levels_read_ == 0) throw parquet::ParquetException("the column ends early");
  }

  bool nullable_;
  std::shared_ptr<parquet::ByteArrayReader> reader_;
  std::array<int16_t, kBatch> levels_{};
  std::array<parquet::ByteArray, kBatch> values_{};
  int64_t levels_read_ = 0;
  int64_t at_ = 0;
  int64_t value_ = 0;
};

class ParquetReader : public RowReader {
 public:
  ParquetReader(const SourceFile& file, const SourcePiece& piece, IdColumn id)
      : file_(file), piece_(piece), columns_(id == IdColumn::read ? kColumns.size() : kTextColumns) {
    reader_ = open_file(file);
    open_columns();
  }

  bool next(Row& row) override {
    if (position_ == *piece_.rows) return false;
    try {
      row.system_prompt = text_[0]->next();
      row.question = text_[1]->next();
      row.response = text_[2]->next();
      row.id = columns_ > kTextColumns && text_[3] ? text_[3]->next() : std::string_view();
    } catch (const std::exception& e) {
      unreadable(file_, fmt::format("cannot decode row group {}", piece_.row_group), e.what());
    }
    ++position_;
    return true;
  }

  void skip(uint64_t rows) override {
    position_ = std::min(position_ + rows, *piece_.rows);
    if (rows > 0) open_columns();
  }

 private:
  void open_columns() {
    if (position_ == *piece_.rows) return;
    try {
      group_ = reader_->RowGroup(piece_.row_group);
      const parquet::SchemaDescriptor* schema = reader_->metadata()->schema();
      for (size_t i = 0; i < columns_; ++i) {
        int column = schema->ColumnIndex(kColumns[i]);
        if (column < 0 ||
            (i == kTextColumns && schema->Column(column)->physical_type() != parquet::Type::BYTE_ARRAY))
          continue;
        text_[i] =
            std::make_unique<TextColumn>(*group_, schema->Column(column), column, piece_.begin + position_);
      }
    } catch (const std::exception& e) {
      unreadable(file_, fmt::format("cannot decode row group {}", piece_.row_group), e.what());
    }
  }

  SourceFile file_;
  SourcePiece piece_;
  size_t columns_;
  uint64_t position_ = 0;
  std::unique_ptr<parquet::ParquetFileReader> reader_;
  std::shared_ptr<parquet::RowGroupReader> group_;
  std::array<std::unique_ptr<TextColumn>, 4> text_;
};

void check_columns(const SourceFile& file, const parquet::SchemaDescriptor& schema) {
  std::vector<std::string> have;
  have.reserve(static_cast<size_t>(schema.group_node()->field_count()));
  for (int i = 0; i < schema.group_node()->field_count(); ++i)
    have.push_back(schema.group_node()->field(i)->name());
  std::vector<std::string> missing;
  for (size_t i = 0; i < kTextColumns; ++i)
    if (std::find(have.begin(), have.end(), kColumns[i]) == have.end()) missing.emplace_back(kColumns[i]);
  if (!missing.empty()) refuse_columns(file.path.string(), missing, have);
  for (size_t i = 0; i < kTextColumns; ++i) {
    int index = schema.ColumnIndex(kColumns[i]);
    const parquet::ColumnDescriptor* column = index < 0 ? nullptr : schema.Column(index);
    if (column == nullptr || column->physical_type() != parquet::Type::BYTE_ARRAY ||
        column->max_repetition_level() > 0 || column->max_definition_level() > 1)
      user_error("{}: column {} is {}; text is needed", file.path.string(), kColumns[i],
                 column == nullptr ? "nested" : parquet::TypeToString(column->physical_type()));
  }
}

}  // namespace

void cut_parquet(const SourceFile& file, size_t index, std::vector<SourcePiece>& pieces) {
  std::unique_ptr<parquet::ParquetFileReader> reader = open_file(file);
  std::shared_ptr<parquet::FileMetaData> metadata = reader->metadata();
  check_columns(file, *metadata->schema());
  for (int group = 0; group < metadata->num_row_groups(); ++group) {
    auto rows = static_cast<uint64_t>(metadata->RowGroup(group)->num_rows());
    for (uint64_t begin = 0; begin < rows; begin += kPieceRows)
      pieces.push_back({index, group, begin, 0, std::min(kPieceRows, rows - begin)});
  }
}

std::unique_ptr<RowReader> open_parquet(const SourceFile& file, const SourcePiece& piece, IdColumn id) {
  return std::make_unique<ParquetReader>(file, piece, id);
}

}  // namespace llmft
