#include "onnx_schema.h"

namespace pe::capi::schema {
namespace {

using K = Kind;
using C = Count;

constexpr Field kModelFields[] = {{1, K::kInt64},
                                  {2, K::kText},
                                  {3, K::kText},
                                  {4, K::kText},
                                  {5, K::kInt64},
                                  {6, K::kText},
                                  {7, K::kMessage, C::kOne, &kGraph},
                                  {8, K::kMessage, C::kMany, &kOperatorSet},
                                  {14, K::kMessage, C::kMany, &kEntry},
                                  {20, K::kMessage, C::kMany, &kTraining},
                                  {25, K::kMessage, C::kMany, &kFunction},
                                  {26, K::kMessage, C::kMany, &kDevice}};
constexpr Field kOperatorSetFields[] = {{1, K::kText}, {2, K::kInt64}};
constexpr Field kEntryFields[] = {{1, K::kText}, {2, K::kAnyText}};
constexpr Field kGraphFields[] = {
    {1, K::kMessage, C::kMany, &kNode},          {2, K::kText},
    {5, K::kMessage, C::kMany, &kTensor},        {10, K::kText},
    {11, K::kMessage, C::kMany, &kValueInfo},    {12, K::kMessage, C::kMany, &kValueInfo},
    {13, K::kMessage, C::kMany, &kValueInfo},    {14, K::kMessage, C::kMany, &kAnnotation},
    {15, K::kMessage, C::kMany, &kSparseTensor}, {16, K::kMessage, C::kMany, &kEntry}};
constexpr Field kNodeFields[] = {{1, K::kText, C::kMany},
                                 {2, K::kText, C::kMany},
                                 {3, K::kText},
                                 {4, K::kText},
                                 {5, K::kMessage, C::kMany, &kAttribute},
                                 {6, K::kText},
                                 {7, K::kText},
                                 {8, K::kText},
                                 {9, K::kMessage, C::kMany, &kEntry},
                                 {10, K::kMessage, C::kMany, &kNodeDevice}};
constexpr Field kAttributeFields[] = {{1, K::kText},
                                      {2, K::kFloat},
                                      {3, K::kInt64},
                                      {4, K::kBytes},
                                      {5, K::kMessage, C::kOne, &kTensor},
                                      {6, K::kMessage, C::kOne, &kGraph},
                                      {7, K::kFloat, C::kMany},
                                      {8, K::kInt64, C::kMany},
                                      {9, K::kBytes, C::kMany},
                                      {10, K::kMessage, C::kMany, &kTensor},
                                      {11, K::kMessage, C::kMany, &kGraph},
                                      {13, K::kText},
                                      {14, K::kMessage, C::kOne, &kType},
                                      {15, K::kMessage, C::kMany, &kType},
                                      {20, K::kInt32, C::kOne, nullptr, 14},
                                      {21, K::kText},
                                      {22, K::kMessage, C::kOne, &kSparseTensor},
                                      {23, K::kMessage, C::kMany, &kSparseTensor}};
constexpr Field kTensorFields[] = {{1, K::kInt64, C::kMany},
                                   {2, K::kInt32},
                                   {3, K::kMessage, C::kOne, &kSegment},
                                   {4, K::kFloat, C::kMany},
                                   {5, K::kInt32, C::kMany},
                                   {6, K::kBytes, C::kMany},
                                   {7, K::kInt64, C::kMany},
                                   {8, K::kText},
                                   {9, K::kBytes},
                                   {10, K::kDouble, C::kMany},
                                   {11, K::kInt64, C::kMany},
                                   {12, K::kText},
                                   {13, K::kMessage, C::kMany, &kEntry},
                                   {14, K::kInt32, C::kOne, nullptr, 1},
                                   {16, K::kMessage, C::kMany, &kEntry}};
constexpr Field kSegmentFields[] = {{1, K::kInt64}, {2, K::kInt64}};
constexpr Field kSparseTensorFields[] = {
    {1, K::kMessage, C::kOne, &kTensor}, {2, K::kMessage, C::kOne, &kTensor}, {3, K::kInt64, C::kMany}};
constexpr Field kValueInfoFields[] = {
    {1, K::kText}, {2, K::kMessage, C::kOne, &kType}, {3, K::kText}, {4, K::kMessage, C::kMany, &kEntry}};
constexpr Field kTypeFields[] = {
    {1, K::kMessage, C::kChoice, &kTensorType}, {4, K::kMessage, C::kChoice, &kSequence},
    {5, K::kMessage, C::kChoice, &kMap},        {6, K::kText},
    {7, K::kMessage, C::kChoice, &kOpaque},     {8, K::kMessage, C::kChoice, &kSparseTensorType},
    {9, K::kMessage, C::kChoice, &kOptional}};
constexpr Field kTensorTypeFields[] = {{1, K::kInt32}, {2, K::kMessage, C::kOne, &kShape}};
constexpr Field kSparseTensorTypeFields[] = {{1, K::kInt32}, {2, K::kMessage, C::kOne, &kShape}};
constexpr Field kSequenceFields[] = {{1, K::kMessage, C::kOne, &kType}};
constexpr Field kMapFields[] = {{1, K::kInt32}, {2, K::kMessage, C::kOne, &kType}};
constexpr Field kOptionalFields[] = {{1, K::kMessage, C::kOne, &kType}};
constexpr Field kOpaqueFields[] = {{1, K::kText}, {2, K::kText}};
constexpr Field kShapeFields[] = {{1, K::kMessage, C::kMany, &kDimension}};
constexpr Field kDimensionFields[] = {{1, K::kInt64, C::kChoice}, {2, K::kText, C::kChoice}, {3, K::kText}};
constexpr Field kAnnotationFields[] = {{1, K::kText}, {2, K::kMessage, C::kMany, &kEntry}};
constexpr Field kTrainingFields[] = {{1, K::kMessage, C::kOne, &kGraph},
                                     {2, K::kMessage, C::kOne, &kGraph},
                                     {3, K::kMessage, C::kMany, &kEntry},
                                     {4, K::kMessage, C::kMany, &kEntry}};
constexpr Field kFunctionFields[] = {{1, K::kText},
                                     {4, K::kText, C::kMany},
                                     {5, K::kText, C::kMany},
                                     {6, K::kText, C::kMany},
                                     {7, K::kMessage, C::kMany, &kNode},
                                     {8, K::kText},
                                     {9, K::kMessage, C::kMany, &kOperatorSet},
                                     {10, K::kText},
                                     {11, K::kMessage, C::kMany, &kAttribute},
                                     {12, K::kMessage, C::kMany, &kValueInfo},
                                     {13, K::kText},
                                     {14, K::kMessage, C::kMany, &kEntry}};
constexpr Field kDeviceFields[] = {{1, K::kText}, {2, K::kInt32}, {3, K::kText, C::kMany}};
constexpr Field kNodeDeviceFields[] = {{1, K::kText}, {2, K::kMessage, C::kMany, &kSharding}, {3, K::kInt32}};
constexpr Field kShardingFields[] = {{1, K::kText},
                                     {2, K::kInt64, C::kMany},
                                     {3, K::kMessage, C::kMany, &kIntIntList},
                                     {4, K::kMessage, C::kMany, &kShardedDim}};
constexpr Field kIntIntListFields[] = {{1, K::kInt64}, {2, K::kInt64, C::kMany}};
constexpr Field kShardedDimFields[] = {{1, K::kInt64}, {2, K::kMessage, C::kMany, &kSimpleShardedDim}};
constexpr Field kSimpleShardedDimFields[] = {
    {1, K::kInt64, C::kChoice}, {2, K::kText, C::kChoice}, {3, K::kInt64}};

template <std::size_t N>
constexpr Message message(const char* name, const Field (&fields)[N]) {
    return {name, fields, N};
}

}  // namespace

const Message kModel = message("ModelProto", kModelFields);
const Message kOperatorSet = message("OperatorSetIdProto", kOperatorSetFields);
const Message kEntry = message("StringStringEntryProto", kEntryFields);
const Message kGraph = message("GraphProto", kGraphFields);
const Message kNode = message("NodeProto", kNodeFields);
const Message kAttribute = message("AttributeProto", kAttributeFields);
const Message kTensor = message("TensorProto", kTensorFields);
const Message kSegment = message("TensorProto.Segment", kSegmentFields);
const Message kSparseTensor = message("SparseTensorProto", kSparseTensorFields);
const Message kValueInfo = message("ValueInfoProto", kValueInfoFields);
const Message kType = message("TypeProto", kTypeFields);
const Message kTensorType = message("TypeProto.Tensor", kTensorTypeFields);
const Message kSparseTensorType = message("TypeProto.SparseTensor", kSparseTensorTypeFields);
const Message kSequence = message("TypeProto.Sequence", kSequenceFields);
const Message kMap = message("TypeProto.Map", kMapFields);
const Message kOptional = message("TypeProto.Optional", kOptionalFields);
const Message kOpaque = message("TypeProto.Opaque", kOpaqueFields);
const Message kShape = message("TensorShapeProto", kShapeFields);
const Message kDimension = message("TensorShapeProto.Dimension", kDimensionFields);
const Message kAnnotation = message("TensorAnnotation", kAnnotationFields);
const Message kTraining = message("TrainingInfoProto", kTrainingFields);
const Message kFunction = message("FunctionProto", kFunctionFields);
const Message kDevice = message("DeviceConfigurationProto", kDeviceFields);
const Message kNodeDevice = message("NodeDeviceConfigurationProto", kNodeDeviceFields);
const Message kSharding = message("ShardingSpecProto", kShardingFields);
const Message kIntIntList = message("IntIntListEntryProto", kIntIntListFields);
const Message kShardedDim = message("ShardedDimProto", kShardedDimFields);
const Message kSimpleShardedDim = message("SimpleShardedDimProto", kSimpleShardedDimFields);

}  // namespace pe::capi::schema
